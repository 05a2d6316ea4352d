"""Waiting for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def wait_at_most(work: Awaitable[_T], timeout_s: float | None) -> _T:
    """Return what the work returns; cancel it after `timeout_s` seconds (None: never), or if the caller is cancelled.

    Before Python 3.12, `asyncio.wait_for` drops the cancellation of a caller whose work has just ended: a call that
    its client gave up would go on, and hold its place.

    Raises:
        asyncio.TimeoutError: the work took longer.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
        if not done:
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.cancel() and not task.cancelled():
            task.exception()  # retrieved: its caller may be gone
