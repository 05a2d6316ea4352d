"""What is asked in the same turn of the event loop shares a request; no answer is lost or another's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from clipsr_gateway import BackendFaultError, BackendUnavailableError, DeadlineExceededError
from clipsr_gateway._backend.coalescer import RequestCoalescer


class Backend:
    """Doubles numbers; negative ones it cannot bear."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None

    async def send(self, items: Sequence[int]) -> list[int]:
        self.requests.append(list(items))
        await (self.hold.wait() if self.hold else asyncio.sleep(0))
        if self.error:
            raise self.error
        if min(items) < 0:
            raise BackendFaultError("a negative number")
        return [2 * item for item in items]


async def ask_all(backend: Backend, numbers: Sequence[int], *, limit: int = 8) -> list[int | BaseException]:
    coalescer = RequestCoalescer[int, int]()
    asked = (coalescer.submit(number % 2, number, backend.send, max_items=limit) for number in numbers)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert not coalescer._open
    return answers


async def test_alone_is_alone():
    backend = Backend()
    assert await ask_all(backend, [3]) == [6]
    assert backend.requests == [[3]]


@given(numbers=st.lists(st.integers(-3, 50), max_size=30), limit=st.integers(1, 8))
def test_everyone_gets_the_own_answer(numbers, limit):
    backend = Backend()
    answers = asyncio.run(ask_all(backend, numbers, limit=limit))
    for number, answer in zip(numbers, answers, strict=True):
        assert isinstance(answer, BackendFaultError) if number < 0 else answer == 2 * number
    assert all(len(request) <= limit and len({number % 2 for number in request}) == 1 for request in backend.requests)
    if all(number >= 0 for number in numbers):
        assert sorted(number for request in backend.requests for number in request) == sorted(numbers)
        expected = sum(-(-sum(number % 2 == key for number in numbers) // limit) for key in (0, 1))
        assert len(backend.requests) == expected


async def test_a_backend_that_is_away_ends_all_at_once():
    backend = Backend()
    error = backend.error = BackendUnavailableError("x:1", "down")
    assert await ask_all(backend, [2, 4, 6]) == [error] * 3
    assert backend.requests == [[2, 4, 6]]


async def test_a_deadline_is_that_of_the_first_alone():
    """Two callers may choose one id."""
    backend, coalescer = Backend(), RequestCoalescer[int, int]()

    async def send_late(items: Sequence[int]) -> list[int]:
        raise DeadlineExceededError("late")

    asked = [coalescer.submit("k", 1, send_late, max_items=8), coalescer.submit("k", 2, backend.send, max_items=8)]
    late, answer = await asyncio.gather(*asked, return_exceptions=True)
    assert (type(late), answer) == (DeadlineExceededError, 4)


async def test_whoever_remains_when_the_first_is_cancelled_asks_again(until):
    backend = Backend()
    backend.hold = asyncio.Event()
    coalescer = RequestCoalescer[int, int]()
    first, *others = [
        asyncio.create_task(coalescer.submit("k", number, backend.send, max_items=8)) for number in range(3)
    ]
    await until(lambda: backend.requests)
    first.cancel()
    await until(lambda: len(backend.requests) == 3)
    backend.hold.set()
    assert await asyncio.gather(*others) == [2, 4]
    assert backend.requests == [[0, 1, 2], [1], [2]]


async def test_one_that_is_cancelled_takes_nothing_from_the_others(until):
    backend = Backend()
    backend.hold = asyncio.Event()
    coalescer = RequestCoalescer[int, int]()
    tasks = [asyncio.create_task(coalescer.submit("k", number, backend.send, max_items=8)) for number in range(3)]
    await until(lambda: backend.requests)
    tasks[1].cancel()
    await asyncio.sleep(0)
    backend.hold.set()
    assert await asyncio.gather(tasks[0], tasks[2]) == [0, 4]
    assert backend.requests == [[0, 1, 2]]
