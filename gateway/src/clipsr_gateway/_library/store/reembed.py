"""Brings a library from one model to another, without a moment in which it is neither."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from clipsr_gateway._library.store.edits import edit
from clipsr_gateway._library.store.records import Parts, Record
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_gateway._library.store.table import LibraryTable
from clipsr_gateway.errors import LibraryStateError

# Images in memory at once, with their files.
_BATCH = 64

_EVERYTHING = Parts(thumbnail=True, original=True, embedding=True)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far it is.

    Attributes:
        done: images with the new embedding.
        total: images that will be in the library.
        dropped: images that leave it.
    """

    done: int
    total: int
    dropped: int


class Reembedding:
    """Embeds the images of one library anew.

    New rows are collected in a table beside the library, where a later attempt finds them; in the end they take the
    place of the old ones in one commit, with the tags, metadata and sources of that moment. What is added, changed or
    deleted while that commit is made, by gateways still at the old model among others, is carried over afterwards.

    Args:
        store: where the library is.
        name: the library's.
        model_digest: the model that is served.
        embed_dim: D of that model.
        embed: returns a record with its new embedding; None for one that the model cannot read.
        drops: whether images without a file may leave the library.
    """

    def __init__(
        self,
        store: LibraryStore,
        name: str,
        *,
        model_digest: str,
        embed_dim: int,
        embed: Callable[[Record], Awaitable[Record | None]],
        drops: bool,
    ) -> None:
        self._store = store
        self._name = name
        self._model_digest = model_digest
        self._embed_dim = embed_dim
        self._embed = embed
        self._drops = drops
        self._unreadable: set[str] = set()
        self._without_original = 0

    async def run(self) -> AsyncGenerator[Progress]:
        """Do it, and say how far it is after every batch.

        Raises:
            LibraryStateError: there are images without a file, and they may not be dropped.
            LibraryError: the library is gone, or its storage failed; nothing is lost.
        """
        table = await self._store.open_handle(self._name)
        settings = await table.settings()
        if settings.model_digest == self._model_digest:
            return
        await self._check_originals(table)
        target = replace(settings, model_digest=self._model_digest, embed_dim=self._embed_dim)
        beside = await self._store.open_staging(self._name, target)
        while True:
            version = await table.version()
            wanted = await table.hashes("has_original")
            done = set(await beside.hashes())
            missing = [sha256 for sha256 in wanted if sha256 not in done and sha256 not in self._unreadable]
            yield self._progress(wanted, missing)
            if not missing:
                break
            async for left in self._fill(table, beside, missing):
                yield self._progress(wanted, left)
        kept = [sha256 for sha256 in wanted if sha256 not in self._unreadable]
        read = await self._open_version(version)
        committed = await table.overwrite(target, _rows(beside, read, kept))
        if committed != version + 1:
            await self._carry_over(table, read=read, before=await self._open_version(committed - 1), kept=kept)
        await self._store.drop_staging(self._name)
        self._store.changed(await self._store.open(self._name))
        yield self._progress(wanted, [])

    async def _check_originals(self, table: LibraryTable) -> None:
        total = await table.count()
        self._without_original = total - len(await table.hashes("has_original"))
        if self._without_original and not self._drops:
            raise LibraryStateError(
                "LIBRARY_ORIGINALS_MISSING",
                f'{self._without_original:,} of {total:,} images of library "{self._name}" were added without keeping '
                "their files, so they cannot be embedded anew. Leave them out with `clipsr-client library reembed "
                f"{self._name} --drop-without-original`, or add them to a new library.",
            )

    async def _fill(
        self, table: LibraryTable, into: LibraryTable, missing: Sequence[str]
    ) -> AsyncIterator[Sequence[str]]:
        """Embed images and adds them; yields what is left after every batch."""
        for start in range(0, len(missing), _BATCH):
            records = await table.fetch(missing[start : start + _BATCH], Parts(thumbnail=True, original=True))
            embedded = await asyncio.gather(*map(self._embed, records))
            self._unreadable |= {old.sha256 for old, new in zip(records, embedded, strict=True) if new is None}
            if fresh := [record for record in embedded if record is not None]:
                await into.insert(fresh)
            yield missing[start + _BATCH :]

    async def _open_version(self, version: int) -> LibraryTable:
        table = await self._store.open_handle(self._name)
        await table.check_out(version)
        return table

    async def _carry_over(
        self, table: LibraryTable, *, read: LibraryTable, before: LibraryTable, kept: Sequence[str]
    ) -> None:
        """Repeat what was done to the old rows after they were read, up to the version before the exchange."""
        there = await before.hashes("has_original")
        if deleted := sorted(set(kept).difference(there)):
            await table.delete(hashes=deleted)
        await _carry_edits(table, read=read, before=before, kept=kept)
        known = {*kept, *self._unreadable}
        async for _ in self._fill(before, table, [sha256 for sha256 in there if sha256 not in known]):
            pass

    def _progress(self, wanted: Sequence[str], missing: Sequence[str]) -> Progress:
        total = len(wanted) - len(self._unreadable)
        dropped = self._without_original + len(self._unreadable)
        left = sum(sha256 not in self._unreadable for sha256 in missing)
        return Progress(done=total - left, total=total, dropped=dropped)


async def _rows(beside: LibraryTable, read: LibraryTable, hashes: Sequence[str]) -> AsyncIterator[Sequence[Record]]:
    """Yield the new rows, with what was said of the images while they were embedded."""
    for start in range(0, len(hashes), _BATCH):
        part = hashes[start : start + _BATCH]
        said = {record.sha256: record for record in await read.fetch(part)}
        yield [_take_said(record, said[record.sha256]) for record in await beside.fetch(part, _EVERYTHING)]


async def _carry_edits(table: LibraryTable, *, read: LibraryTable, before: LibraryTable, kept: Sequence[str]) -> None:
    for start in range(0, len(kept), _BATCH):
        part = kept[start : start + _BATCH]
        old = {record.sha256: record for record in await read.fetch(part)}
        edited = {record.sha256: record for record in await before.fetch(part) if record != old[record.sha256]}
        if edited:
            await edit(table, lambda record, said=edited: _take_said(record, said[record.sha256]), hashes=list(edited))


def _take_said(record: Record, other: Record) -> Record:
    return replace(record, source=other.source, tags=other.tags, metadata=other.metadata)
