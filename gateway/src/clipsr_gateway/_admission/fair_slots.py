"""Slots for requests in Triton, shared fairly between calls."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager


class FairSlots:
    """A number of slots that calls take turns for.

    A free slot goes to the waiting call that holds the fewest; calls that hold equally many take turns.
    So a call with one image waits for at most one slot to become free where another has hundreds of images waiting,
    and of calls that all have many, each gets the same share of the slots, however long their images take. Within a
    call it is first come, first served.

    Belongs to one event loop.

    Args:
        count: slots.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self._free = count
        self._held: Counter[Hashable] = Counter()
        # In the order of turns: a call that gets a slot goes to the end.
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return sum(map(len, self._waiting.values()))

    @property
    def in_use(self) -> int:
        """Slots taken."""
        return self._held.total()

    @asynccontextmanager
    async def acquire(self, call: Hashable) -> AsyncGenerator[None, None]:
        """Wait for a slot, and release it at the end.

        Args:
            call: whose turn it takes; one object for all requests of a call.
        """
        await self._acquire(call)
        try:
            yield
        finally:
            self._release(call)

    async def _acquire(self, call: Hashable) -> None:
        if self._free:  # then nobody waits
            self._take(call)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(call, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(call, turn)
            else:  # the slot came in the same moment
                self._release(call)
            raise

    def _take(self, call: Hashable) -> None:
        self._free -= 1
        self._held[call] += 1

    def _release(self, call: Hashable) -> None:
        self._free += 1
        self._held[call] -= 1
        if not self._held[call]:
            del self._held[call]
        while self._free and self._waiting:
            self._serve(min(self._waiting, key=lambda waiting: self._held[waiting]))  # the first of the least

    def _serve(self, call: Hashable) -> None:
        turns = self._waiting.pop(call)
        turn = turns.popleft()
        if turns:
            self._waiting[call] = turns
        if not turn.cancelled():  # or its task has not yet come round to forget it
            self._take(call)
            turn.set_result(None)

    def _forget(self, call: Hashable, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(call)
        if turns and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[call]
