"""Slots that are shared fairly: between callers first, then between the calls of each."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager

_Calls = dict[Hashable, deque[asyncio.Future[None]]]


class FairSlots:
    """A number of slots that callers, and the calls of each caller, take turns for.

    A free slot goes to the waiting caller that holds the fewest, and of its calls to the one that holds the fewest;
    those that hold equally many take turns. So a call with one image waits for at most one slot to become free where
    another has hundreds of images waiting, a caller gets the same share whether it has one call or a hundred, and both
    hold however long the images take. Within a call it is first come, first served.

    Belongs to one event loop.

    Args:
        count: slots.
        most_each: slots that one caller may hold; None for all.
    """

    def __init__(self, count: int, *, most_each: int | None = None) -> None:
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        self._free = count
        self._most_each = count if most_each is None else most_each
        self._held: Counter[Hashable] = Counter()
        self._held_by_caller: Counter[Hashable] = Counter()
        # Both in the order of turns: who gets a slot goes to the end.
        self._waiting: dict[Hashable, _Calls] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return sum(len(turns) for calls in self._waiting.values() for turns in calls.values())

    @property
    def in_use(self) -> int:
        """Slots taken."""
        return self._held.total()

    def held_by(self, caller: Hashable) -> int:
        """Slots that a caller holds."""
        return self._held_by_caller[caller]

    @asynccontextmanager
    async def acquire(self, call: Hashable, *, caller: Hashable = None) -> AsyncGenerator[None, None]:
        """Wait for a slot, and release it at the end.

        Args:
            call: whose turn it takes; one object for all requests of a call.
            caller: whose call it is; None where callers have no names, and each call counts for itself.
        """
        caller = call if caller is None else caller
        await self._acquire(call, caller)
        try:
            yield
        finally:
            self._release(call, caller)

    async def _acquire(self, call: Hashable, caller: Hashable) -> None:
        if self._free and self._held_by_caller[caller] < self._most_each:  # then nobody waits who may have it
            self._take(call, caller)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, {}).setdefault(call, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(call, caller, turn)
            else:  # the slot came in the same moment
                self._release(call, caller)
            raise

    def _take(self, call: Hashable, caller: Hashable) -> None:
        self._free -= 1
        self._held[call] += 1
        self._held_by_caller[caller] += 1

    def _release(self, call: Hashable, caller: Hashable) -> None:
        self._free += 1
        for held, key in ((self._held, call), (self._held_by_caller, caller)):
            held[key] -= 1
            if not held[key]:
                del held[key]
        while self._free and (caller := self._next_caller()) is not None:
            self._serve(caller)

    def _next_caller(self) -> Hashable | None:
        """Return the first of those that hold the least; None if nobody waits who may have a slot."""
        caller = min(self._waiting, key=lambda waiting: self._held_by_caller[waiting], default=None)
        return caller if caller is not None and self._held_by_caller[caller] < self._most_each else None

    def _serve(self, caller: Hashable) -> None:
        calls = self._waiting.pop(caller)
        call = min(calls, key=lambda waiting: self._held[waiting])
        turns = calls.pop(call)
        turn = turns.popleft()
        if turns:
            calls[call] = turns
        if calls:
            self._waiting[caller] = calls
        if not turn.cancelled():  # or its task has not yet come round to forget it
            self._take(call, caller)
            turn.set_result(None)

    def _forget(self, call: Hashable, caller: Hashable, turn: asyncio.Future[None]) -> None:
        calls = self._waiting.get(caller, {})
        turns = calls.get(call)
        if turns and turn in turns:
            turns.remove(turn)
            if not turns:
                del calls[call]
            if not calls:
                del self._waiting[caller]
