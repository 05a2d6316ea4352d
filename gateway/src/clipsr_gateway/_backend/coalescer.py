"""Coalesces images of one call that arrive in one event-loop turn into one request to Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from clipsr_gateway.errors import BackendError, BackendUnavailableError

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class RequestCoalescer(Generic[_Item, _Answer]):
    """Coalesces items of equal keys that arrive in one turn of the event loop into one request.

    No item waits longer than that turn: one that arrives alone is sent alone. A key holds the call's id, so that a
    group has one deadline and is cancelled as one; but callers choose ids, so no item fails for a deadline, a
    cancellation or an item that may be another call's.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._open: dict[Hashable, _Group[_Item, _Answer]] = {}

    async def submit(
        self,
        key: Hashable,
        item: _Item,
        send: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]],
        *,
        max_items: int,
    ) -> _Answer:
        """Return the answer to one item.

        Args:
            key: what the items of a group have in common.
            item: one item of the request.
            send: sends a request of items; one answer each, in their order. Items of one key share the first's.
            max_items: items in a group, at least 1.

        Raises:
            BackendError, DeadlineExceededError: of `send`. One that may be another's fault never gets here: the items
                of such a group are sent again, one by one.
        """
        group = self._open.get(key)
        if group is not None:
            place = group.join(item)
            if len(group.items) >= max_items:
                del self._open[key]
            answer = await place
            return (await send([item]))[0] if answer is None else answer
        group = _Group[_Item, _Answer](item)
        if max_items > 1:
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
    """The first item, and those that joined it: they wait for an answer, or for None, which means: send it alone."""

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
        """Let every item without an answer be sent alone."""
        for place in self.places:
            if not place.done():
                place.set_result(None)
