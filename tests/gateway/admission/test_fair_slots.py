"""Places in the backend: never more than there are, shared fairly, none lost to a cancellation."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from clipsr_gateway._admission.fair_slots import FairSlots


class Crowd:
    """Requests of several calls that hold a place until told to go."""

    def __init__(self, count: int, *, most_each: int | None = None) -> None:
        self.slots = FairSlots(count, most_each=most_each)
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._leave = asyncio.Semaphore(0)

    async def enter(self, call: str, times: int = 1, *, caller: str | None = None) -> list[asyncio.Task[None]]:
        """Adds requests of a call, which ask at once."""
        new = [asyncio.create_task(self._hold(call, caller)) for _ in range(times)]
        self.tasks += new
        await settle()
        return new

    async def leave(self, times: int = 1) -> None:
        """Lets the requests that were served first go."""
        for _ in range(times):
            self._leave.release()
            await settle()

    async def _hold(self, call: str, caller: str | None) -> None:
        async with self.slots.acquire(call, caller=caller):
            self.served.append(call)
            await self._leave.acquire()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_image_does_not_wait_behind_hundreds_of_another_call():
    crowd = Crowd(2)
    await crowd.enter("many", 300)
    await crowd.enter("one")
    assert (crowd.slots.in_use, crowd.slots.waiting) == (2, 299)
    await crowd.leave()
    assert crowd.served == ["many", "many", "one"]
    await crowd.leave(301)
    await asyncio.gather(*crowd.tasks)
    assert (crowd.slots.in_use, crowd.slots.waiting) == (0, 0)


async def test_equal_calls_take_turns():
    crowd = Crowd(1)
    for call in "abc":
        await crowd.enter(call, 4)
    await crowd.leave(12)
    assert "".join(crowd.served) == "a" + "abc" * 3 + "bc"  # a's first request found a free place


async def test_a_caller_gets_no_larger_share_by_more_calls():
    crowd = Crowd(1)
    for number in range(4):
        await crowd.enter(f"a{number}", 2, caller="a")
    await crowd.enter("b", 4, caller="b")
    await crowd.leave(12)
    await asyncio.gather(*crowd.tasks)
    assert "".join(call[0] for call in crowd.served) == "a" + "ab" * 4 + "aaa"
    assert crowd.served[1:8:2] == ["a0", "a1", "a2", "a3"]  # and its calls take turns


async def test_a_caller_leaves_places_that_it_may_not_have():
    crowd = Crowd(4, most_each=3)
    for number in range(5):
        await crowd.enter(f"a{number}", caller="a")
    assert (crowd.slots.held_by("a"), crowd.slots.waiting) == (3, 2)
    await crowd.enter("b", caller="b")
    assert crowd.served[-1] == "b"
    await crowd.leave(2)
    assert (crowd.slots.held_by("a"), crowd.slots.waiting) == (3, 0)
    await crowd.leave(4)
    await asyncio.gather(*crowd.tasks)
    assert (crowd.slots.in_use, crowd.slots.waiting) == (0, 0)


async def test_places_are_shared_evenly_however_long_each_is_held():
    """One call never lets go; the others still get their share of what is left."""
    slots = FairSlots(4)
    forever = asyncio.Event()

    async def hold(call: str, until: asyncio.Event) -> None:
        async with slots.acquire(call):
            await until.wait()

    first = [asyncio.create_task(hold("first", forever)) for _ in range(2)]
    await settle()
    gates = [asyncio.Event() for _ in range(6)]
    held: list[str] = []

    async def note(call: str, gate: asyncio.Event) -> None:
        async with slots.acquire(call):
            held.append(call)
            await gate.wait()

    others = [asyncio.create_task(note("ab"[i % 2], gates[i])) for i in range(6)]
    await settle()
    more = asyncio.create_task(hold("first", forever))
    await settle()
    for gate in gates:
        gate.set()
        await settle()
    assert sorted(held) == ["a", "a", "a", "b", "b", "b"]
    forever.set()
    await asyncio.gather(*first, more, *others)


async def test_a_waiting_request_that_is_cancelled_takes_no_place():
    crowd = Crowd(1)
    await crowd.enter("a")
    (waiting,) = await crowd.enter("b")
    await crowd.enter("c")
    waiting.cancel()
    await crowd.leave()  # in the same moment, before the cancelled task has run
    assert crowd.served == ["a", "c"]
    assert waiting.cancelled()
    assert crowd.slots.waiting == 0
    await crowd.leave()
    assert crowd.slots.in_use == 0


async def test_a_place_given_in_the_moment_of_cancellation_goes_on():
    crowd = Crowd(1)
    (holding,) = await crowd.enter("a")
    (given,) = await crowd.enter("b")
    await crowd.enter("c")
    holding.cancel()
    await asyncio.sleep(0)  # a gives its place to b, which has not run yet
    given.cancel()
    await settle()
    assert crowd.served == ["a", "c"]
    await crowd.leave()
    assert (crowd.slots.in_use, crowd.slots.waiting) == (0, 0)


async def test_an_error_gives_the_place_back():
    slots = FairSlots(1)
    with pytest.raises(KeyError):
        async with slots.acquire("a"):
            raise KeyError
    assert slots.in_use == 0


async def test_no_place_is_lost_whatever_happens():
    slots, dice = FairSlots(3), random.Random(0)
    most = 0

    async def work(call: int) -> None:
        nonlocal most
        async with slots.acquire(call):
            most = max(most, slots.in_use)
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(dice.randrange(20))) for _ in range(2_000)]
    for _ in range(600):
        await asyncio.sleep(0)
        dice.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most == 3
    assert (slots.in_use, slots.waiting) == (0, 0)
    assert any(task.cancelled() for task in tasks)
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await asyncio.wait_for(stack.enter_async_context(slots.acquire("again")), 1)


def test_there_must_be_a_place():
    with pytest.raises(ValueError, match="at least 1"):
        FairSlots(0)
