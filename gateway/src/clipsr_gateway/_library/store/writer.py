"""Commits the images of all calls to a library together: one commit costs some 15 ms, however many rows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from clipsr_gateway._library.store.records import Record

# Rows of one commit. Half of what a stream of AddImages may have in the server: while these are written, the models
# are busy with the others.
_MAX_ROWS = 64

# Bytes of files and thumbnails after which a commit waits for no more rows.
_MAX_BYTES = 16 * 1024 * 1024

# How long the first row waits for others. At 60 images a second a commit then has 15 rows and takes 6% of the time.
_MAX_WAIT_S = 0.25


class BatchWriter:
    """Collects rows for a moment and commits them.

    Belongs to one event loop.

    Args:
        insert: commits rows, and returns the hashes of those that were not there before.
        committed: is told of the number of rows after every commit.
    """

    def __init__(
        self,
        insert: Callable[[Sequence[Record]], Awaitable[set[str]]],
        *,
        committed: Callable[[int], None],
    ) -> None:
        self._insert = insert
        self._committed = committed
        self._waiting: list[tuple[Record, asyncio.Future[bool]]] = []
        self._waiting_bytes = 0
        self._is_full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def add(self, record: Record) -> bool:
        """Add a row; return once it is on disk.

        The row is written even if whoever waits for it is cancelled.

        Returns:
            Whether it was added: False if the library had its hash already.

        Raises:
            LibraryError: the commit failed, and the row is not in the library.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append((record, done))
        self._waiting_bytes += _count_bytes(record)
        if self._is_batch_full():
            self._is_full.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return await asyncio.shield(done)

    async def close(self) -> None:
        """Wait until everything is committed."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._wait_for_more()
                batch, self._waiting = self._waiting[:_MAX_ROWS], self._waiting[_MAX_ROWS:]
                self._waiting_bytes -= sum(_count_bytes(record) for record, _ in batch)
                await self._commit(batch)
        finally:
            self._task = None

    async def _wait_for_more(self) -> None:
        self._is_full.clear()
        if not self._is_batch_full():
            try:
                await asyncio.wait_for(self._is_full.wait(), _MAX_WAIT_S)
            except asyncio.TimeoutError:
                return

    def _is_batch_full(self) -> bool:
        return len(self._waiting) >= _MAX_ROWS or self._waiting_bytes >= _MAX_BYTES

    async def _commit(self, batch: list[tuple[Record, asyncio.Future[bool]]]) -> None:
        records = {record.sha256: record for record, _ in batch}
        try:
            added = await self._insert(list(records.values()))
        except Exception as error:  # whatever it is, it is the answer for each of these rows
            for _, done in batch:
                done.set_exception(error)
                done.exception()  # retrieved: nobody may be waiting any more
            return
        self._committed(len(added))
        for record, done in batch:
            done.set_result(record.sha256 in added)
            added.discard(record.sha256)  # a second one of the same batch was not added


def _count_bytes(record: Record) -> int:
    return len(record.thumbnail) + len(record.original or b"")
