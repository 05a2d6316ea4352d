"""Waits for a signal that asks to stop."""

from __future__ import annotations

import signal
from queue import Empty, SimpleQueue
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Set by a signal, for good.

    Not a threading.Event: a handler runs between any two steps of the main thread, in the middle of the Event's own
    wait() too, and would wait for ever for the lock that wait() holds. SimpleQueue.put() may interrupt get().
    """

    def __init__(self) -> None:
        self._requests: SimpleQueue[None] = SimpleQueue()

    def listen(self) -> None:
        """Let SIGTERM, SIGINT and SIGHUP set it from now on; to be called in the main thread."""
        for number in _SIGNALS:
            signal.signal(number, self._note)

    def wait(self, timeout_s: float) -> bool:
        """Say whether it was set, at the latest after so many seconds."""
        try:
            self._requests.get(timeout=timeout_s)
        except Empty:
            return False
        self._requests.put(None)  # the next wait returns as well
        return True

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A note and no exception: an exception could fall between starting a process and remembering it.
        self._requests.put(None)
