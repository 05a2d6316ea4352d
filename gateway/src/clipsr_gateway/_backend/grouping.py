"""What is asked at the same moment goes to the backend as one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from clipsr_gateway.errors import BackendError, BackendUnavailableError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class RequestCoalescer(Generic[_Item, _Answer]):
    """Gathers items for one turn of the event loop, so that many that come together cost the backend one request.

    Nothing waits longer for it: an item that comes alone is sent alone. Items are gathered where their keys are equal.
    A key holds the call's id, so that a group has one deadline and is cancelled as one; but callers choose ids, so
    nobody fails for a deadline, a cancellation or an item that may be another's.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._open: dict[Hashable, _Group[_Item, _Answer]] = {}

    async def ask(
        self, key: Hashable, item: _Item, send: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]], *, limit: int
    ) -> _Answer:
        """Return the answer to one item.

        Args:
            key: what the items of a group have in common.
            item: what is asked about.
            send: asks the backend about items; one answer each, in their order. Items of one key share the first's.
            limit: items in a group, at least 1.

        Raises:
            BackendError, DeadlineExceededError: of `send`. One that may be another's fault never gets here: the items
                of such a group are sent again, one by one.
        """
        group = self._open.get(key)
        if group is not None:
            place = group.join(item)
            if len(group.items) >= limit:
                del self._open[key]
            answer = await place
            return (await send([item]))[0] if answer is None else answer
        group = _Group[_Item, _Answer](item)
        if limit > 1:
            self._open[key] = group
        try:
            await asyncio.sleep(0)
            self._close(key, group)
            first, *others = await send(group.items)
            group.answer(others)
            return first
        except BackendUnavailableError as error:
            group.fail(error)
            raise
        except BackendError:
            if not group.places:
                raise
        finally:
            self._close(key, group)
            group.dissolve()
        return (await send([item]))[0]

    def _close(self, key: Hashable, group: _Group[_Item, _Answer]) -> None:
        if self._open.get(key) is group:
            del self._open[key]


class _Group(Generic[_Item, _Answer]):
    """The first item, and those that joined it, who wait for an answer, or for None: to ask by themselves."""

    def __init__(self, first: _Item) -> None:
        self.items = [first]
        self.places: list[asyncio.Future[_Answer | None]] = []

    def join(self, item: _Item) -> asyncio.Future[_Answer | None]:
        self.items.append(item)
        self.places.append(asyncio.get_running_loop().create_future())
        return self.places[-1]

    def answer(self, answers: Sequence[_Answer]) -> None:
        for place, answer in zip(self.places, answers, strict=True):
            if not place.done():
                place.set_result(answer)

    def fail(self, error: Exception) -> None:
        for place in self.places:
            if not place.done():
                place.set_exception(error)

    def dissolve(self) -> None:
        """Whoever has no answer yet asks alone."""
        for place in self.places:
            if not place.done():
                place.set_result(None)
