"""Keeps the event loop free: what takes long runs in a thread, what does not runs at once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

# Parsing a message, checking labels or reading the headers of so many bytes takes less than a millisecond. Handing it
# to a thread and coming back costs a call 0.1 to 0.2 ms of processor time, a third of all that the gateway does for it.
_FEW_BYTES = 128 * 1024


async def run_off_loop(size_bytes: int, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function whose time grows with the size of what it works on, in a thread if that is large."""
    if size_bytes <= _FEW_BYTES:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


async def run_in_own_thread(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function that may take seconds and cannot be interrupted, in a thread that no exit waits for."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def settle(set_answer: Callable[[], None]) -> None:
        if not answer.done():
            set_answer()

    def run() -> None:
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            set_answer = functools.partial(answer.set_exception, error)
        else:
            set_answer = functools.partial(answer.set_result, result)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, set_answer)

    threading.Thread(target=run, daemon=True).start()
    return await answer
