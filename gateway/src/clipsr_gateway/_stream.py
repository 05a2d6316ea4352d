"""What a stream of messages needs, whatever they hold: reading until told to stop, and bounded work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, Generic, TypeVar

__all__ = ["Inbox", "work_through"]

_T = TypeVar("_T")


class Inbox(Generic[_T]):
    """The messages of a caller, until it closes its side or the server stops reading.

    Belongs to one task at a time.

    Args:
        source: the messages.
        draining: set when the server wants to stop.
        max_age_s: seconds after which it stops reading anyway.
    """

    def __init__(self, source: AsyncIterable[_T], *, draining: asyncio.Event, max_age_s: float) -> None:
        self._source = aiter(source)
        self._draining = draining
        self._expires_s = asyncio.get_running_loop().time() + max_age_s
        self._is_stopped = False

    @property
    def is_stopped(self) -> bool:
        """Whether the server stopped reading: there may be messages that it never saw."""
        return self._is_stopped

    async def read(self) -> _T | None:
        """Returns the next message; None at the end, and from the moment on that the server stops reading."""
        left_s = self._expires_s - asyncio.get_running_loop().time()
        if self._draining.is_set() or left_s <= 0:
            self._is_stopped = True
            return None
        reading = asyncio.ensure_future(self._next())
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((reading, draining), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            self._is_stopped = True
            return None
        finally:
            await _cancel(reading, draining)

    async def _next(self) -> _T | None:
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            return None


async def work_through(
    inbox: Inbox[_T],
    work: Callable[[_T], Awaitable[None]],
    *,
    size_of: Callable[[_T], int],
    max_items: int,
    max_bytes: int,
) -> None:
    """Does `work` on every message, on several at once, and reads no further than there is room for.

    The first error ends all work, as a cancellation does.

    Args:
        inbox: the messages.
        work: done when the answer has left.
        size_of: bytes of a message.
        max_items: messages in the server at once.
        max_bytes: bytes of the messages in the server at which no further one is read; so the last may exceed it.
    """
    running: dict[asyncio.Future[None], int] = {}
    reading: asyncio.Future[_T | None] | None = None
    is_open = True
    try:
        while is_open or running:
            if is_open and reading is None and len(running) < max_items and sum(running.values()) < max_bytes:
                reading = asyncio.ensure_future(inbox.read())
            pending = [*running, *([reading] if reading else [])]
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task.done()]:
                del running[task]
                task.result()
            if reading is not None and reading.done():
                message, reading = reading.result(), None
                if message is None:
                    is_open = False
                else:
                    running[asyncio.ensure_future(work(message))] = size_of(message)
    finally:
        await _cancel(*running, *([reading] if reading else []))


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
