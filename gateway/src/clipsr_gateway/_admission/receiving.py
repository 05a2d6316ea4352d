"""Places for messages that are being received: who holds one and sends nothing loses it to those who wait."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway.errors import SlowMessageError

# How long a message may take to arrive while others wait for its place: in a second, half a megabyte over a slow mobile
# line. Who has no other place may take longer.
_GRACE_S, _GRACE_OF_ONE_S = 1.0, 10.0

# Of all places, what one caller may hold: another's message finds one at once.
_SHARE_EACH = 0.75

_RETRY_S = 1.0


@dataclass(eq=False)
class _Place:
    caller: Hashable
    since_s: float
    task: asyncio.Task[Any] | None
    is_evicted: bool = False


class ReceivingPlaces:
    """Bounds how many messages are received at once, and with it the memory that they take.

    gRPC hands over whole messages and does not tell whether any byte of one has come, so a call takes a place before.
    While others wait, the caller that holds the most loses the place that it has held longest. A sender that makes
    progress is done before, or retries.

    Belongs to one event loop.

    Args:
        count: places.
        clock: seconds, monotonic.
    """

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_each = max(1, int(count * _SHARE_EACH))
        self._slots = FairSlots(count, most_each=self._most_each)
        self._clock = clock
        self._held: list[_Place] = []  # the oldest first
        self._timer: asyncio.Handle | None = None

    @property
    def in_use(self) -> int:
        """Messages that are being received."""
        return self._slots.in_use

    @property
    def waiting(self) -> int:
        """Calls that wait for a place."""
        return self._slots.waiting

    @asynccontextmanager
    async def acquire(self, caller: Hashable, connection: Hashable) -> AsyncGenerator[None]:
        """Wait for a place, and hold it until the message is there.

        Args:
            caller: whose message it is.
            connection: by which it comes; those of a caller take turns, as different programs may use them.

        Raises:
            SlowMessageError: others needed the place before.
        """
        if self.in_use >= self._most_each:
            self._evict_after(0)
        async with self._slots.acquire(connection, caller=caller):
            place = _Place(caller, self._clock(), asyncio.current_task())
            self._held.append(place)
            try:
                yield
            except asyncio.CancelledError:
                if not place.is_evicted:
                    raise
                if sys.version_info >= (3, 11) and place.task is not None:
                    place.task.uncancel()
                took_s = self._clock() - place.since_s
                message = f"The request did not arrive within {took_s:.1f} s, and others wait to send one; try again."
                raise SlowMessageError(message, retry_s=_RETRY_S) from None
            finally:
                self._held.remove(place)

    def _evict_after(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._evict)

    def _evict(self) -> None:
        """Take places away for those that wait, as many as may lose theirs, and come back for the rest."""
        self._timer = None
        wanted = self.waiting - sum(place.is_evicted for place in self._held)
        while wanted > 0 and (found := self._next_victim()) is not None:
            place, grace_s = found
            left_s = place.since_s + grace_s - self._clock()
            if left_s > 0:
                self._evict_after(left_s)
                return
            place.is_evicted = True
            if place.task is not None:
                place.task.cancel()
            wanted -= 1

    def _next_victim(self) -> tuple[_Place, float] | None:
        """Return the oldest place of the caller with the most, and how long it may be held."""
        places = [place for place in self._held if not place.is_evicted]
        if not places:
            return None
        counts = Counter(place.caller for place in places)
        victim = max(places, key=lambda place: counts[place.caller])  # the first of the most
        return victim, _GRACE_S if counts[victim.caller] > 1 else _GRACE_OF_ONE_S
