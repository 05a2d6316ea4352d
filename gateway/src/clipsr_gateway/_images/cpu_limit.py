"""A limit to the processor time of decoding: the last resort against a file whose cost its header does not show.

Gateway and serving have this file, byte for byte the same (tests/contract/test_image_reader.py).
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

# The most expensive image that passes the check of its header takes 2 to 6 s; what exceeds this was not foreseen.
DECODE_CPU_S = 30.0

_SIGEV_SIGNAL = 0  # timer_create(2)
_libc = ctypes.CDLL(None, use_errno=True)


class _SignalEvent(ctypes.Structure):
    """Linux's struct sigevent, 64 bytes."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("padding", ctypes.c_char * 48),
    )


class _TimerTimes(ctypes.Structure):
    """POSIX's struct itimerspec: the interval, and the time until the timer expires first."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


@contextmanager
def limit_cpu(seconds: float) -> Generator[None]:
    """Let the kernel end this process (SIGPROF) if what runs inside takes more processor time of this thread.

    A native decoder heeds no exception and no cancellation, may hold Python's lock, and nothing ends a thread. The
    launcher starts again what ended, and callers hear UNAVAILABLE meanwhile. The time of other threads does not count.

    Raises:
        OSError: the kernel has no more timers for this user.
    """
    clock, timer = time.pthread_getcpuclockid(threading.get_ident()), ctypes.c_void_p()
    event = _SignalEvent(signo=signal.SIGPROF, notify=_SIGEV_SIGNAL)
    whole_s, rest_s = divmod(seconds, 1)
    times = _TimerTimes(first_s=int(whole_s), first_ns=int(rest_s * 1e9))
    _check(_libc.timer_create(ctypes.c_int(clock), ctypes.byref(event), ctypes.byref(timer)))
    try:
        _check(_libc.timer_settime(timer, 0, ctypes.byref(times), None))
        yield
    finally:
        _check(_libc.timer_delete(timer))


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
