"""Commands on a terminal, as a person runs them."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

_VARIABLES = {"COLUMNS": "120", "TERM": "xterm-256color"}


def run_in_terminal(
    command: Sequence[str],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    keeps_output: bool = False,
) -> SimpleNamespace:
    """Runs a command whose standard error is a terminal, and reads along: a terminal holds 4 KiB, and then blocks.

    Args:
        command: the program and its arguments.
        timeout_s: how long the terminal may stay silent.
        environment: variables beside those of the tests.
        keeps_output: leave standard output out of the terminal, as `> file` does.

    Returns:
        `code`; `shown`, all that came to the terminal; `out`, standard output where it is kept.
    """
    ours, theirs = pty.openpty()
    variables = {**os.environ, **_VARIABLES, **(environment or {})}
    variables.pop("NO_COLOR", None)
    process = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE if keeps_output else theirs, stderr=theirs, env=variables
    )
    os.close(theirs)
    shown = b""
    try:
        while select.select([ours], [], [], timeout_s)[0]:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:  # EIO: Linux's end of file of a terminal
                break
            if not chunk:
                break
            shown += chunk
        out, _ = process.communicate(timeout=timeout_s)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return SimpleNamespace(code=process.returncode, shown=shown.decode(), out=out)
