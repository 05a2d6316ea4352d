"""Waiting for a limited time: its end, and a cancellation that comes with the answer."""

from __future__ import annotations

import asyncio

import pytest

from clipsr_gateway._timeout import wait_at_most


async def test_the_answer_comes_through_and_so_does_an_error():
    async def fail() -> None:
        raise StopAsyncIteration

    assert await wait_at_most(asyncio.sleep(0, "answer"), 60) == "answer"
    assert await wait_at_most(asyncio.sleep(0, "answer"), None) == "answer"
    with pytest.raises(StopAsyncIteration):
        await wait_at_most(fail(), 60)


async def test_work_that_takes_too_long_is_cancelled():
    is_cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_cancelled.set()

    with pytest.raises(asyncio.TimeoutError):
        await wait_at_most(work(), 0.001)
    await is_cancelled.wait()


async def test_a_cancellation_ends_the_work():
    is_running, is_cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        is_running.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_cancelled.set()

    task = asyncio.ensure_future(wait_at_most(work(), 60))
    await is_running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await is_cancelled.wait()


async def test_a_cancellation_that_comes_with_the_answer_is_not_lost():
    """`asyncio.wait_for` of Python 3.10 and 3.11 returns the answer here, and the cancelled call goes on."""
    answer = asyncio.get_running_loop().create_future()
    has_ended = asyncio.Event()

    async def work() -> str:
        try:
            return await answer
        finally:
            has_ended.set()
            task.cancel()

    task = asyncio.ensure_future(wait_at_most(work(), 60))
    await asyncio.sleep(0)
    answer.set_result("answer")
    await has_ended.wait()
    with pytest.raises(asyncio.CancelledError):
        await task
