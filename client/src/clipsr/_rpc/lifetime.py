"""Whether a client is open, and what ends when it is closed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator

from clipsr._errors import ClientClosedError


class Lifetime:
    """The one closed state of a client, which threads may share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False
        self._callbacks: list[Callable[[], None]] = []

    @property
    def is_closed(self) -> bool:
        """Whether the client was closed."""
        return self._is_closed

    def check(self) -> None:
        """Raise ClientClosedError if the client was closed."""
        if self._is_closed:
            raise closed()

    @contextlib.contextmanager
    def notify(self, callback: Callable[[], None]) -> Generator[None, None, None]:
        """Call `callback` if the client is closed within the block; raise ClientClosedError if it was before."""
        with self._lock:
            self.check()
            self._callbacks.append(callback)
        try:
            yield
        finally:
            with self._lock:
                self._callbacks.remove(callback)

    def end(self, *, notifies: bool = True) -> None:
        """Close: nothing begins from here on, and what is under way is notified, unless nothing can be any more."""
        with self._lock:
            self._is_closed = True
            callbacks = list(self._callbacks)
        for callback in callbacks if notifies else ():
            callback()


def closed() -> ClientClosedError:
    """Return the error of a call that a closed client cannot make or finish."""
    return ClientClosedError("The client is closed: close it after its last call, or make another one.")
