"""SIGTERM ends a command as Ctrl-C does: what is half written is removed, and a sentence says how to continue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def interrupted_by_sigterm() -> Generator[None]:
    """Raise KeyboardInterrupt in the main thread at SIGTERM; in another thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
