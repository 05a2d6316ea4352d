"""Batches what all calls ask of a library: a commit costs some 15 ms and a query 4 ms, however many rows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from clipsr_gateway._library.store.edits import Changes, Edited
from clipsr_gateway._library.store.records import Record
from clipsr_gateway._timeout import wait_at_most

# Items of one batch. Half of what a stream of AddImages may have in the server: while these are committed, the models
# are busy with the others.
_MAX_ITEMS = 64

# Bytes of files and thumbnails after which a commit waits for no more rows.
_MAX_COMMIT_BYTES = 16 * 1024 * 1024

# How long the first row waits for others. At 60 images a second a commit then has 15 rows and takes 6% of the time.
_COMMIT_WAIT_S = 0.25

# The same for a hash. Images of a stream come in bursts, whenever a commit made room for more.
_LOOKUP_WAIT_S = 0.05

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


class MicroBatcher(Generic[_Item, _Answer]):
    """Collects items for a moment and processes them together.

    Belongs to one event loop.

    Args:
        process: returns one answer an item, in their order; an error is the answer to each of them.
        max_wait_s: how long the first item waits for others.
        max_bytes: bytes of items after which a batch waits for no more.
        size_of: bytes of an item.
    """

    def __init__(
        self,
        process: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer]]],
        *,
        max_wait_s: float,
        max_bytes: int = 1,
        size_of: Callable[[_Item], int] = lambda _: 0,
    ) -> None:
        self._process = process
        self._max_wait_s = max_wait_s
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._waiting: list[tuple[_Item, asyncio.Future[_Answer]]] = []
        self._waiting_bytes = 0
        self._is_full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: _Item) -> _Answer:
        """Return the answer to an item; it is processed even if the caller is cancelled.

        Raises:
            LibraryError: of `process`.
        """
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        self._waiting_bytes += self._size_of(item)
        self._note_size()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(answer)

    async def close(self) -> None:
        """Wait until everything is processed."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _note_size(self) -> None:
        if len(self._waiting) >= _MAX_ITEMS or self._waiting_bytes >= self._max_bytes:
            self._is_full.set()
        else:
            self._is_full.clear()

    async def _run(self) -> None:
        try:
            while self._waiting:
                with contextlib.suppress(asyncio.TimeoutError):
                    await wait_at_most(self._is_full.wait(), self._max_wait_s)
                batch, self._waiting = self._waiting[:_MAX_ITEMS], self._waiting[_MAX_ITEMS:]
                self._waiting_bytes -= sum(self._size_of(item) for item, _ in batch)
                self._note_size()
                await self._answer(batch)
        finally:
            self._task = None

    async def _answer(self, batch: list[tuple[_Item, asyncio.Future[_Answer]]]) -> None:
        try:
            answers = await self._process([item for item, _ in batch])
        except Exception as error:  # any error is the answer to each of these items
            for _, waiting in batch:
                waiting.set_exception(error)
                waiting.exception()  # retrieved: its caller may be gone
            return
        for (_, waiting), answer in zip(batch, answers, strict=True):
            waiting.set_result(answer)


def batch_commits(
    insert: Callable[[Sequence[Record]], Awaitable[set[str]]], *, committed: Callable[[int], None]
) -> MicroBatcher[Record, bool]:
    """Return what adds rows, and answers once they are on disk whether each is new.

    Args:
        insert: commits rows, and returns the hashes of those that were not there before.
        committed: is told of the number of rows after every commit.
    """

    async def commit(records: Sequence[Record]) -> list[bool]:
        added = await insert(list({record.sha256: record for record in records}.values()))
        committed(len(added))
        answers: list[bool] = []
        for record in records:
            answers.append(record.sha256 in added)
            added.discard(record.sha256)  # a second one of the same batch was not added
        return answers

    return MicroBatcher(commit, max_wait_s=_COMMIT_WAIT_S, max_bytes=_MAX_COMMIT_BYTES, size_of=_count_bytes)


def batch_lookups(
    fetch: Callable[[Sequence[str]], Awaitable[Sequence[Record]]],
) -> MicroBatcher[str, Record | None]:
    """Return what answers with the row of a hash, or None if there is none.

    Args:
        fetch: returns the rows of those of some hashes that are in the library.
    """

    async def look_up(hashes: Sequence[str]) -> list[Record | None]:
        found = {record.sha256: record for record in await fetch(list(dict.fromkeys(hashes)))}
        return [found.get(sha256) for sha256 in hashes]

    return MicroBatcher(look_up, max_wait_s=_LOOKUP_WAIT_S)


def batch_edits(
    edit: Callable[[Callable[[Record], Record], Sequence[str]], Awaitable[Edited]],
) -> MicroBatcher[tuple[str, Changes], bool]:
    """Return what changes rows by their hashes, and answers once it is on disk whether the row was there.

    Args:
        edit: changes the rows of some hashes in one commit.
    """

    async def commit(items: Sequence[tuple[str, Changes]]) -> list[bool]:
        changes: dict[str, list[Changes]] = {}
        for sha256, each in items:
            changes.setdefault(sha256, []).append(each)

        def change(record: Record) -> Record:
            for each in changes[record.sha256]:
                record = each.apply(record)
            return record

        done = await edit(change, list(changes))
        return [sha256 in done.matched for sha256, _ in items]

    return MicroBatcher(commit, max_wait_s=_COMMIT_WAIT_S)


def _count_bytes(record: Record) -> int:
    return len(record.thumbnail) + len(record.original or b"")
