"""Keeps libraries fast: joins the small files that commits leave, and builds indexes, beside the calls."""

# pyarrow ships no types and lancedb partial ones: what comes out of them is unknown.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from lancedb.index import BTree, IvfSq, LabelList

from clipsr_gateway._library.store import disk
from clipsr_gateway._library.store.storage_errors import storage_errors
from clipsr_gateway._library.store.table import LibraryTable, vector_index_name, vector_index_rows
from clipsr_gateway._logs import log_event
from clipsr_gateway._timeout import wait_at_most
from clipsr_gateway.errors import LibraryError, NotInLibraryError

# Commits, each of which leaves a file, after which searches and further commits become noticeably slower.
_MAX_COMMITS = 128

# Joining files rewrites the whole table, so a large one waits until it has grown by this share, or until so many files
# slow it down that rewriting is cheaper.
_MIN_GROWTH = 0.1
_MAX_COMMITS_OF_LARGE = 1_024

# After the last commit of a while, what is left is joined, too.
_IDLE_S = 10.0
_MIN_COMMITS_WHEN_IDLE = 8

# Versions that were superseded longer ago are removed; no query takes that long, so none reads them.
_KEEP_VERSIONS = timedelta(minutes=15)

# Lance would remove versions by their own age; see disk.split_expired().
_KEEP_ALL = timedelta(days=36_500)

# Rows from which indexes on hashes, times, tags and metadata are worth their upkeep.
_SCALAR_INDEX_ROWS = 4_096

# Rows from which comparing all vectors takes longer than asking an index: 20,000 of 512 dimensions are 40 MB.
_VECTOR_INDEX_ROWS = 20_000

# An index whose rows have become so many times as many is built anew: its partitions have grown with them, and the
# probes of a search would read more and more.
_REBUILD_GROWTH = 2

# Rows a partition. LanceDB's own default is 8192, with which 32 probes would look at everything.
_PARTITION_ROWS = 1_024

_SCALAR_INDEXES = {"sha256": BTree, "add_time": BTree, "tags": LabelList, "metadata": LabelList}


@dataclass(frozen=True, kw_only=True)
class MaintenanceConfig:
    """When something is done.

    Attributes:
        scalar_index_rows: rows from which hashes, times, tags and metadata are indexed.
        vector_index_rows: rows from which vectors are.
        idle_s: seconds without a commit after which the last small files are joined, and deleted rows wiped.
        keep_versions: how long a version is kept after the next one was committed.
    """

    scalar_index_rows: int = _SCALAR_INDEX_ROWS
    vector_index_rows: int = _VECTOR_INDEX_ROWS
    idle_s: float = _IDLE_S
    keep_versions: timedelta = _KEEP_VERSIONS


@dataclass(kw_only=True)
class _Backlog:
    """What happened to a library since it was tidied.

    Attributes:
        commits, rows: of writers.
        task: tidies, or waits for a quiet moment to do so.
        cleanup: removes what was deleted and old versions, or waits until they have aged.
        is_clean: nothing was deleted, and no version is kept but the newest, as far as `cleanup` knows.
        wake: ends the waiting of `cleanup`.
    """

    commits: int = 0
    rows: int = 0
    task: asyncio.Task[None] | None = None
    cleanup: asyncio.Task[None] | None = None
    is_clean: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Maintenance:
    """Tidies libraries in the background, one at a time.

    Only time is lost if it fails or is killed: searches compare rows that no index covers one by one, and every version
    of a table is complete. So faults are logged, and it tries again after the next commits. Deleted images are wiped
    from the newest version when the library has been quiet for a moment, and from the disk once `keep_versions` later.

    Belongs to one event loop.

    Args:
        config: when something is done.
    """

    def __init__(self, config: MaintenanceConfig) -> None:
        self._config = config
        self._backlogs: dict[str, _Backlog] = {}
        self._turn = asyncio.Lock()  # joining files and building indexes take all processors

    def committed(self, table: LibraryTable, rows: int) -> None:
        """Hear of a commit, which added rows or, where there are none, took some away; tidies once it is worth it."""
        backlog = self.watch(table)
        if backlog.is_clean or not rows:
            backlog.wake.set()
        backlog.commits += 1
        backlog.rows += rows
        if backlog.task is None:
            backlog.task = asyncio.create_task(self._run(table, backlog))

    def watch(self, table: LibraryTable) -> _Backlog:
        """Clean up what an earlier run of this gateway, or another one, left; and from now on after every commit."""
        backlog = self._backlogs.setdefault(table.name, _Backlog())
        if backlog.cleanup is None:
            backlog.cleanup = asyncio.create_task(self._clean_up_forever(table, backlog))
        return backlog

    def forget(self, name: str) -> None:
        """Stop work on a library that is dropped."""
        backlog = self._backlogs.pop(name, None)
        for task in (backlog.task, backlog.cleanup) if backlog else ():
            if task:
                task.cancel()

    async def close(self) -> None:
        """Stop all work."""
        tasks = [task for each in self._backlogs.values() for task in (each.task, each.cleanup) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, table: LibraryTable, backlog: _Backlog) -> None:
        with _logged_faults(table):
            await self._tidy_until_done(table, backlog)
        backlog.task = None

    async def _tidy_until_done(self, table: LibraryTable, backlog: _Backlog) -> None:
        while backlog.commits:
            await self._wait(table, backlog)
            if backlog.commits < _MIN_COMMITS_WHEN_IDLE and not await self._lacks_index(table):
                return
            backlog.commits = backlog.rows = 0
            async with self._turn:
                await self.tidy(table)

    async def _clean_up_forever(self, table: LibraryTable, backlog: _Backlog) -> None:
        while table.name in self._backlogs:
            keep_s = self._config.keep_versions.total_seconds()
            wait_s: float | None = keep_s
            with _logged_faults(table):
                wait_s = await self.clean_up(table)
            backlog.is_clean = wait_s is None
            with contextlib.suppress(asyncio.TimeoutError):
                # Looking through thousands of versions takes a while, so those of a minute expire together.
                await wait_at_most(backlog.wake.wait(), None if wait_s is None else wait_s + keep_s / 15)
                await asyncio.sleep(self._config.idle_s)  # what follows at once is done in one go
            backlog.wake.clear()

    async def clean_up(self, table: LibraryTable) -> float | None:
        """Wipe what was deleted, and remove versions that have expired; return as `remove_expired_versions`.

        Old versions first, which also makes room on a full disk.
        """
        async with self._turn:
            await disk.remove_expired_versions(table, keep=self._config.keep_versions)
            with _logged_faults(table):
                await disk.rewrite_deletions(table)
            return await disk.remove_expired_versions(table, keep=self._config.keep_versions)

    async def _wait(self, table: LibraryTable, backlog: _Backlog) -> None:
        """Return when there is enough to do, or nothing has happened for a while."""
        size = await table.count()
        while not _is_due(backlog, size):
            commits = backlog.commits
            await asyncio.sleep(self._config.idle_s)
            if backlog.commits == commits:
                return

    async def tidy(self, table: LibraryTable) -> None:
        """Join small files, bring indexes up to date, and build those that are missing."""
        began_s = time.perf_counter()
        with storage_errors(table.name):
            await table.raw.optimize(cleanup_older_than=_KEEP_ALL)
            missing = await self._missing_indexes(table)
            for name, (column, kind) in missing.items():
                await table.raw.create_index(column, config=kind, name=name)
            for name in await _outdated(table):
                await table.raw.drop_index(name)
        fields = {"library": table.name, "indexed": sorted(missing), "seconds": round(time.perf_counter() - began_s, 3)}
        log_event("library_maintenance", fields)

    async def _lacks_index(self, table: LibraryTable) -> bool:
        with storage_errors(table.name):
            return bool(await self._missing_indexes(table))

    async def _missing_indexes(self, table: LibraryTable) -> dict[str, tuple[str, Any]]:
        """Return names, columns and kinds of the indexes to build."""
        rows = await table.raw.count_rows()
        if rows < min(self._config.scalar_index_rows, self._config.vector_index_rows):
            return {}
        there = {index.name for index in await table.raw.list_indices()}
        wanted: dict[str, tuple[str, Any]] = {}
        if rows >= self._config.scalar_index_rows:
            wanted |= {f"{column}_idx": (column, kind()) for column, kind in _SCALAR_INDEXES.items()}
        built = max((vector_index_rows(name) or 0 for name in there), default=0)
        if rows >= max(self._config.vector_index_rows, _REBUILD_GROWTH * built):
            # Scalar, not product quantization: texts lie far from all images of their model, so what tells the best
            # images apart is a small part of the cosine, which product quantization loses.
            kind = IvfSq(distance_type="cosine", num_partitions=max(1, rows // _PARTITION_ROWS))
            wanted[vector_index_name(rows)] = ("embedding", kind)
        return {name: index for name, index in wanted.items() if name not in there}


@contextlib.contextmanager
def _logged_faults(table: LibraryTable) -> Generator[None]:
    """Log what goes wrong in the background: it must not end what the gateway does."""
    try:
        yield
    except NotInLibraryError:
        pass  # dropped meanwhile, maybe by another gateway
    except LibraryError as error:
        log_event("library_maintenance", {"library": table.name, "failed": str(error)}, level=logging.WARNING)
    except Exception as error:  # a fault of LanceDB
        log_event("library_maintenance", {"library": table.name, "failed": ""}, level=logging.ERROR, error=error)


async def _outdated(table: LibraryTable) -> list[str]:
    """Return the indexes on vectors in whose place another one was built."""
    names = [index.name for index in await table.raw.list_indices() if vector_index_rows(index.name) is not None]
    return sorted(names, key=lambda name: vector_index_rows(name) or 0)[:-1]


def _is_due(backlog: _Backlog, size: int) -> bool:
    if backlog.commits >= _MAX_COMMITS_OF_LARGE:
        return True
    return backlog.commits >= _MAX_COMMITS and backlog.rows >= _MIN_GROWTH * size
