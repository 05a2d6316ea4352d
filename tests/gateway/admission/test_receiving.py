"""Places for messages: nobody keeps one for nothing, with a clock that tests turn."""

from __future__ import annotations

import asyncio

import pytest

from clipsr_gateway._admission.receiving import ReceivingPlaces
from clipsr_gateway.errors import SlowMessageError


class Senders:
    """Callers whose messages come when a test says so."""

    def __init__(self, count: int) -> None:
        self.now_s = 0.0
        self.places = ReceivingPlaces(count, clock=lambda: self.now_s)
        self.received: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, caller: str, name: str = "", *, connection: object = None) -> asyncio.Task[None]:
        """A call that asks for a place, and has it or waits."""
        task = asyncio.create_task(self._send(caller, name or caller, connection or object()))
        self.tasks.append(task)
        await settle()
        return task

    async def _send(self, caller: str, name: str, connection: object) -> None:
        async with self.places.acquire(caller, connection):
            self.received.append(name)
            await asyncio.Event().wait()

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert (self.places.in_use, self.places.waiting) == (0, 0)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.sleep(0.001)  # timers that are due
    for _ in range(5):
        await asyncio.sleep(0)


async def test_nobody_goes_while_nobody_waits():
    senders = Senders(4)
    for _ in range(3):
        await senders.begin("a")
    senders.now_s = 50
    await senders.begin("b")
    assert senders.places.in_use == 4
    assert not any(task.done() for task in senders.tasks)
    await senders.end()


async def test_the_one_with_the_most_places_loses_the_oldest():
    senders = Senders(4)
    lone = await senders.begin("lone")
    first = await senders.begin("greedy")
    second = await senders.begin("greedy")
    await senders.begin("greedy")
    senders.now_s = 1.5
    await senders.begin("new")
    assert senders.received[-1] == "new"
    with pytest.raises(SlowMessageError, match=r"within 1\.5 s") as caught:
        await first
    assert caught.value.retry_s == 1
    assert not lone.done()
    assert not second.done()
    await senders.end()


async def test_who_has_just_begun_keeps_its_place():
    senders = Senders(4)
    for _ in range(3):
        await senders.begin("greedy")
    await senders.begin("b")
    senders.now_s = 0.5
    waiting = await senders.begin("new")
    assert senders.places.waiting == 1
    assert not any(task.done() for task in senders.tasks)
    senders.now_s = 1.0
    with pytest.raises(SlowMessageError):  # by the timer, which runs by the real clock
        await asyncio.wait_for(senders.tasks[0], 30)
    await settle()
    assert senders.received[-1] == "new"
    assert not waiting.done()
    await senders.end()


async def test_connections_of_a_caller_take_turns():
    """Two programs behind one address, or with one key: a call of one does not come after hundreds of the other."""
    senders = Senders(4)
    for _ in range(20):
        await senders.begin("host", "silent", connection="first")
    senders.now_s = 0.5
    await senders.begin("host", "honest", connection="second")
    assert "honest" not in senders.received
    senders.now_s = 1.0
    with pytest.raises(SlowMessageError):
        await asyncio.wait_for(senders.tasks[0], 30)
    await settle()
    assert "honest" in senders.received[3:6]
    await senders.end()


async def test_a_single_slow_sender_has_longer():
    senders = Senders(2)
    old = await senders.begin("a")
    await senders.begin("b")
    senders.now_s = 5
    await senders.begin("c")
    assert not old.done()
    senders.now_s = 11
    await senders.begin("d")
    with pytest.raises(SlowMessageError):
        await asyncio.wait_for(old, 30)
    await senders.end()


async def test_a_cancellation_stays_one():
    senders = Senders(1)
    task = await senders.begin("a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await senders.end()
