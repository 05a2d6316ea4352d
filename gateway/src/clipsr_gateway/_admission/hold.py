"""Keeps what was acquired until the work that needs it is over, also when its caller gave up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")

# The event loop keeps no task alive.
_releasing: set[asyncio.Task[None]] = set()


class Hold:
    """Work that cannot be interrupted: Triton finishes what it has begun, and so does a thread."""

    def __init__(self) -> None:
        self._running: list[asyncio.Future[Any]] = []

    @property
    def running(self) -> list[asyncio.Future[Any]]:
        """Work that is not over."""
        return [work for work in self._running if not work.done()]

    async def finish(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await work; a cancellation ends the waiting and not the work."""
        task = asyncio.ensure_future(work)
        self._running.append(task)
        return await asyncio.shield(task)


@asynccontextmanager
async def hold_until_done(resource: AbstractAsyncContextManager[Any]) -> AsyncGenerator[Hold]:
    """Acquire a resource; release it at the end, or when all `Hold.finish` is over if that is later."""
    hold = Hold()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(resource)
        try:
            yield hold
        finally:
            if hold.running:
                task = asyncio.ensure_future(_release(hold.running, stack.pop_all()))
                _releasing.add(task)
                task.add_done_callback(_releasing.discard)


async def _release(running: list[asyncio.Future[Any]], stack: AsyncExitStack) -> None:
    async with stack:
        await asyncio.gather(*running, return_exceptions=True)  # nobody is left to hear of an error
