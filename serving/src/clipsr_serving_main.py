"""The command of this distribution, beside its package, whose import takes a while.

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
_DEFAULTS = (signal.default_int_handler, signal.SIG_DFL)


def serve() -> int:
    """Run `clipsr-serve`."""
    return _run("clipsr-serve", "clipsr_serving.launcher")


def _run(command: str, module: str, signals: tuple[signal.Signals, ...] = (signal.SIGINT,)) -> int:
    """Import a module, which signals end in one line, and run its `main`; return the exit code."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        # At once: nothing has begun that must be ended, and an exception could come up anywhere in foreign code.
        _report_interrupt(command)
        os._exit(_INTERRUPTED)

    before = {number: signal.getsignal(number) for number in signals}
    heeded = [number for number in signals if before[number] in _DEFAULTS]  # and not ignored, as by nohup
    for number in heeded:
        signal.signal(number, leave)
    main = import_module(module).main
    for number in heeded:
        signal.signal(number, before[number])
    try:
        return main()
    except KeyboardInterrupt:
        _report_interrupt(command)
        return _INTERRUPTED


def _report_interrupt(command: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed
        os.write(2, f"{command}: interrupted\n".encode())
