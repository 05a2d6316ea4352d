"""The commands of this distribution, beside its package, whose import takes a while.

Ctrl-C during the import ends a command as it does later: in one line, with exit code 130. Rooms are installed
separately, so each has this function (tests/contract/test_entry_points.py holds them equal).
"""

from __future__ import annotations

import contextlib
import os
import signal
from importlib import import_module
from types import FrameType
from typing import NoReturn

_INTERRUPTED = 128 + signal.SIGINT


def client() -> int:
    """Run `clipsr-client`."""
    return _run("clipsr-client", "clipsr.cli")


def batch() -> int:
    """Run `clipsr-batch`."""
    return _run("clipsr-batch", "clipsr.batch._command")


def _run(command: str, module: str) -> int:
    """Import a module and run its `main`; return the exit code."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        # At once: nothing has begun that must be ended, and an exception could come up anywhere in foreign code.
        _report_interrupt(command)
        os._exit(_INTERRUPTED)

    is_heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # and not ignored, as by nohup
    if is_heeded:
        signal.signal(signal.SIGINT, leave)
    main = import_module(module).main
    if is_heeded:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    except KeyboardInterrupt:
        _report_interrupt(command)
        return _INTERRUPTED


def _report_interrupt(command: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed
        os.write(2, f"{command}: interrupted\n".encode())
