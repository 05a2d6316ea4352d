"""Waits for conditions, never for a time that should do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

# Far beyond what any condition needs on a loaded machine; only a failing test waits so long.
_TIMEOUT_S = 90
_POLL_S = 0.02


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Return once the condition holds; fail when it does not in time, or when the process has ended."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, process.stderr.read() if process.stderr else "it ended"
        time.sleep(_POLL_S)
