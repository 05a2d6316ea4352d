"""One library: a LanceDB table, each of whose versions is complete."""

# pyarrow ships no types and lancedb partial ones: what comes out of them is unknown.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lancedb import AsyncTable
from lancedb.query import ColumnOrdering

from clipsr_gateway._library.store import filters
from clipsr_gateway._library.store.records import Filter, Found, LibraryInfo, LibrarySettings, Page, Parts, Record
from clipsr_gateway._library.store.schema import column_names, make_schema, read_records, read_settings, to_arrow
from clipsr_gateway._library.store.storage_errors import storage_errors
from clipsr_gateway.errors import LibraryStateError

# The name of an index on vectors says for how many rows it was built.
_VECTOR_INDEX = "embedding_"

# Partitions of the index that every search looks into: of 200 partitions a sixth. With `_REFINE_FACTOR` this gives
# the recall that docs/library.md tells; benchmarks/library.py measures it.
_MIN_PROBES = 32

# So many times the wanted rows are compared by their full vectors, as the index knows them only to 8 bits a dimension.
# Each of them is read from another place of the disk.
_REFINE_FACTOR = 5

_ROWS_OF_ONE_PREDICATE = 1_000


class LibraryTable:
    """A library's rows.

    Every method sees the newest version, whoever wrote it. All raise NotInLibraryError when the library is dropped, and
    StorageFullError or StorageUnavailableError when the storage fails.

    Args:
        name: the library's.
        table: opened so that it looks for new versions at every use.
    """

    def __init__(self, name: str, table: AsyncTable) -> None:
        self.name = name
        self._table = table
        self._last_time_us = 0

    async def settings(self) -> LibrarySettings:
        """Return what the library was created with.

        Raises:
            LibraryStateError: the table is of another version of this software.
        """
        with storage_errors(self.name):
            schema = await self._table.schema()
        try:
            return read_settings(schema)
        except ValueError as cause:
            message = (
                f'The table "{self.name}" cannot be used as a library: {cause}. Use the version of clipsr that made '
                "it, or move its folder away."
            )
            raise LibraryStateError("LIBRARY_FORMAT_UNKNOWN", message) from cause

    async def info(self) -> LibraryInfo:
        """Return the library as it is now."""
        settings = await self.settings()
        with storage_errors(self.name):
            stats = cast("Any", await self._table.stats())
            indices = cast("Any", await self._table.list_indices())
            originals = await self._table.count_rows("has_original")
        # Two while one is replaced by the next.
        indexed = [index.num_indexed_rows or 0 for index in indices if vector_index_rows(index.name) is not None]
        return LibraryInfo(
            name=self.name,
            settings=settings,
            image_count=stats["num_rows"],
            original_count=originals,
            size_bytes=await self._count_disk_bytes() or stats["total_bytes"],
            indexed_count=min(indexed, default=None),
        )

    async def count(self, where: Filter | None = None) -> int:
        """Return how many rows a filter lets through."""
        with storage_errors(self.name):
            return await self._table.count_rows(filters.predicate(where or Filter()) or None)

    async def insert(self, records: Sequence[Record]) -> set[str]:
        """Add rows, all of them or none, but those whose hash is there already.

        When this returns, the rows are on disk, vectors and files included. Of several writers that add the same image
        at once, in this process or others, one succeeds.

        Args:
            records: of different hashes and of one model; those without a time get the current one.

        Returns:
            The hashes of those that were added.

        Raises:
            LibraryStateError: the library belongs to another model, meanwhile or all along.
        """
        settings = await self.settings()
        check_model(self.name, settings, digest=records[0].model_digest)
        with storage_errors(self.name):
            timed = [
                record if record.add_time_us else replace(record, add_time_us=self._now_us()) for record in records
            ]
            # Through the index two writers at once make doubles (lance-format/lance#8949); without it Lance sees them.
            merge = self._table.merge_insert("sha256").when_not_matched_insert_all().use_index(False)
            result = await merge.execute(to_arrow(timed, make_schema(settings)))
            hashes = [record.sha256 for record in timed]
            if result.num_inserted_rows == len(hashes):
                return set(hashes)
            times = {record.sha256: record.add_time_us for record in await self.fetch(hashes)}
        return {record.sha256 for record in timed if times.get(record.sha256) == record.add_time_us}

    async def remove_doubles(self) -> int:
        """Keep the oldest of rows with one hash, which two gateways could make; return how many others were removed."""
        with storage_errors(self.name):
            rows = await self._table.query().select(["sha256", "add_time"]).with_row_id().to_arrow()
        if rows.num_rows == len(set(cast("list[str]", rows.column("sha256").to_pylist()))):
            return 0
        rows = rows.sort_by([("sha256", "ascending"), ("add_time", "ascending"), ("_rowid", "ascending")])
        hashes = rows.column("sha256").to_pylist()
        ids = rows.column("_rowid").to_pylist()
        doubles = [ids[i] for i in range(1, len(ids)) if hashes[i] == hashes[i - 1]]
        with storage_errors(self.name):
            for start in range(0, len(doubles), _ROWS_OF_ONE_PREDICATE):
                part = ", ".join(map(str, doubles[start : start + _ROWS_OF_ONE_PREDICATE]))
                await self._table.delete(f"_rowid IN ({part})")
        return len(doubles)

    async def find(
        self,
        embedding: npt.NDArray[np.float32],
        *,
        top_k: int,
        where: Filter,
        parts: Parts,
        is_exact: bool = False,
        exclude_sha256: str = "",
    ) -> list[Found]:
        """Return the rows whose embeddings are nearest to one, best first.

        Rows that the index does not cover yet are compared one by one. A filter counts before the search, so that it
        finds as many rows as there are.

        Args:
            embedding: [D] float32, L2-normalized.
            top_k: rows to return.
            where: which rows are searched.
            parts: what is read with them.
            is_exact: whether the index is left aside.
            exclude_sha256: hash of a row to leave out; empty for none.
        """
        conditions = [
            filters.predicate(where),
            f"NOT {filters.has_hashes([exclude_sha256])}" if exclude_sha256 else "",
        ]
        query = self._table.query().nearest_to(embedding).column("embedding").distance_type("cosine").limit(top_k)
        query = query.maximum_nprobes(0).minimum_nprobes(_MIN_PROBES).refine_factor(_REFINE_FACTOR)
        if condition := " AND ".join(filter(None, conditions)):
            query = query.where(condition)
        if is_exact:
            query = query.bypass_vector_index()
        with storage_errors(self.name):
            rows = await query.select([*column_names(parts), "_distance"]).to_arrow()
        distances = cast("list[float]", rows.column("_distance").to_pylist())
        records = read_records(rows.drop_columns(["_distance"]))
        # Rounding may take an image's distance to itself below 0.
        return [
            Found(record=record, cosine=min(1.0, max(-1.0, 1 - distance)))
            for record, distance in zip(records, distances, strict=True)
        ]

    async def page(self, *, size: int, where: Filter, after: tuple[int, str] | None, newest_first: bool) -> Page:
        """Return rows in the order of their time, without large columns.

        Args:
            size: rows to return at most.
            where: which rows.
            after: time (microseconds since 1970) and hash of the row before the page; None begins.
            newest_first: the order.
        """
        condition = filters.predicate(where)
        behind = filters.after(*after, newest_first=newest_first) if after else ""
        order = [ColumnOrdering(column_name=name, ascending=not newest_first) for name in ("add_time", "sha256")]
        query = self._table.query().select(["sha256", "add_time"]).order_by(order).limit(size + 1)
        if both := " AND ".join(filter(None, (condition, behind))):
            query = query.where(both)
        with storage_errors(self.name):
            total = await self._table.count_rows(condition or None)
            rows = await query.to_arrow()
        hashes = cast("list[str]", rows.column("sha256").to_pylist())
        times = cast("list[int]", rows.column("add_time").cast(pa.int64()).to_pylist())
        records = await self.fetch(hashes[:size])
        end = (times[size - 1], hashes[size - 1]) if len(hashes) > size else None
        return Page(records=tuple(records), total=total, end=end)

    async def fetch(self, hashes: Sequence[str], parts: Parts | None = None) -> list[Record]:
        """Return rows by their hashes, in that order; those that are not there are left out."""
        if not hashes:
            return []
        with storage_errors(self.name):
            query = self._table.query().where(filters.has_hashes(hashes))
            rows = await query.select(column_names(parts or Parts())).to_arrow()
        found = {record.sha256: record for record in read_records(rows)}
        return [found[sha256] for sha256 in hashes if sha256 in found]

    async def delete(self, *, hashes: Sequence[str] = (), where: Filter | None = None) -> int:
        """Delete rows by their hashes, or those that a filter with a condition lets through; return how many."""
        condition = filters.has_hashes(hashes) if hashes else filters.predicate(where or Filter())
        if not condition:
            raise ValueError("no row is named")
        with storage_errors(self.name):
            if not await self._table.count_rows(condition):
                return 0  # a commit of nothing would leave a version
            result = await self._table.delete(condition)
        return int(cast("Any", result).num_deleted_rows)

    async def hashes(self, where: str = "") -> list[str]:
        """Return the hashes of all rows that fulfil a predicate."""
        query = self._table.query().select(["sha256"])
        with storage_errors(self.name):
            rows = await (query.where(where) if where else query).to_arrow()
        return cast("list[str]", rows.column("sha256").to_pylist())

    async def version(self) -> int:
        """Return the number of the newest version; every commit makes one."""
        with storage_errors(self.name):
            return await self._table.version()

    async def overwrite(self, settings: LibrarySettings, batches: AsyncIterator[Sequence[Record]]) -> int:
        """Put complete records in the place of all rows, with other settings, in one commit.

        Until then everybody sees the old rows, afterwards the new ones. One batch is in memory at a time: LanceDB asks
        for the next one from a thread of its own.

        Returns:
            The number of the new version.
        """
        schema, loop = make_schema(settings), asyncio.get_running_loop()

        async def following() -> Sequence[Record] | None:
            return await anext(batches, None)

        def pull() -> Iterator[pa.RecordBatch]:
            while records := asyncio.run_coroutine_threadsafe(following(), loop).result():
                yield from to_arrow(records, schema).to_batches()

        with storage_errors(self.name):
            result = await self._table.add(pa.RecordBatchReader.from_batches(schema, pull()), mode="overwrite")
        return int(cast("Any", result).version)

    async def check_out(self, version: int) -> None:
        """From now on shows an older version; for a handle of one's own."""
        with storage_errors(self.name):
            await self._table.checkout(version)

    async def _count_disk_bytes(self) -> int:
        """Return the bytes below the table's folder, old versions included; 0 in an object store."""
        uri = await self._table.uri()
        return 0 if "://" in uri else await asyncio.to_thread(_count_bytes, Path(uri))

    @property
    def raw(self) -> AsyncTable:
        """The table itself, for maintenance."""
        return self._table

    def _now_us(self) -> int:
        """Return a time later than all before it: the order of a library's rows."""
        self._last_time_us = max(time.time_ns() // 1000, self._last_time_us + 1)
        return self._last_time_us


def _count_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; those that vanish meanwhile count nothing."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(path, name).lstat().st_size
    return total


def vector_index_name(rows: int) -> str:
    """Return the name of an index on vectors that is built for so many rows."""
    return f"{_VECTOR_INDEX}{rows}"


def vector_index_rows(name: str) -> int | None:
    """Return for how many rows an index on vectors was built; None for an index on something else."""
    rows = name.removeprefix(_VECTOR_INDEX)
    return int(rows) if name != rows and rows.isdecimal() else None


def check_model(name: str, settings: LibrarySettings, *, digest: str) -> None:
    """Make sure that embeddings of a model can be compared with those of a library.

    Raises:
        LibraryStateError: they cannot; the sentence has the command that helps.
    """
    if settings.model_digest != digest:
        raise LibraryStateError(
            "LIBRARY_OF_OTHER_MODEL",
            f'Library "{name}" was embedded with model {settings.model_digest}, but {digest} is served, and embeddings '
            f"of two models cannot be compared. Embed it anew with `clipsr-client library reembed {name}`.",
        )
