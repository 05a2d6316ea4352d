"""All libraries below one folder or object-store URI."""

# pyarrow ships no types and lancedb partial ones: what comes out of them is unknown.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lancedb
from lancedb import AsyncConnection

from clipsr_gateway._library.store.batches import MicroBatcher, batch_commits, batch_edits, batch_lookups
from clipsr_gateway._library.store.edits import Changes, Edited, edit
from clipsr_gateway._library.store.maintenance import Maintenance, MaintenanceConfig
from clipsr_gateway._library.store.records import DamagedLibrary, Filter, LibraryInfo, LibrarySettings, Record
from clipsr_gateway._library.store.schema import make_schema
from clipsr_gateway._library.store.storage_errors import explain, storage_errors
from clipsr_gateway._library.store.table import LibraryTable
from clipsr_gateway._logs import log_event
from clipsr_gateway.errors import LibraryExistsError, LibraryStateError, NotInLibraryError, StorageUnavailableError

# Between a library's name and what a table beside it is for; no name has it.
_SUFFIX_MARK = "."

# Reason of a library that can only be dropped.
_DAMAGED = "LIBRARY_DAMAGED"


class LibraryStore:
    """Opens, creates and drops libraries, and keeps what belongs to open ones.

    Belongs to one event loop. Other processes may use the same storage at the same time.

    Args:
        uri: a folder, or an object store such as s3://bucket/folder, whose credentials LanceDB takes from the
            environment.
        max_libraries: how many there may be.
        maintenance: when tables are tidied.
    """

    def __init__(self, uri: str, *, max_libraries: int, maintenance: MaintenanceConfig | None = None) -> None:
        self._uri = uri if "://" in uri else str(Path(uri).absolute())  # a bare word would be a cloud's database
        self._max_libraries = max_libraries
        self._connection: AsyncConnection | None = None
        self._connecting = asyncio.Lock()
        self._tables: dict[str, LibraryTable] = {}
        self._writers: dict[str, MicroBatcher[Record, bool]] = {}
        self._lookups: dict[str, MicroBatcher[str, Record | None]] = {}
        self._editors: dict[str, MicroBatcher[tuple[str, Changes], bool]] = {}
        self._reembedding: set[str] = set()
        self._maintenance = Maintenance(maintenance or MaintenanceConfig())
        self._opening: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Open all libraries in the background, so that what an earlier run left is repaired and cleaned up."""
        self._opening = asyncio.create_task(self._open_all())

    async def names(self) -> list[str]:
        """Return the names of all libraries, sorted."""
        return sorted(name for name in await self._table_names() if _SUFFIX_MARK not in name)

    async def create(self, name: str, settings: LibrarySettings) -> LibraryInfo:
        """Create an empty library.

        Raises:
            LibraryExistsError: there is one of that name.
            LibraryStateError: there are as many as there may be.
        """
        names = await self.names()
        if name in names:
            raise LibraryExistsError(name)
        if len(names) >= self._max_libraries:
            message = f"There are {len(names)} libraries, as many as this server keeps; drop one first."
            raise LibraryStateError("TOO_MANY_LIBRARIES", message)
        await self._create_table(name, settings)
        return await (await self.open(name)).info()

    async def open(self, name: str) -> LibraryTable:
        """Return a library.

        Raises:
            NotInLibraryError: there is none of that name.
            LibraryStateError: a table of that name is damaged, is no library, or one of another version.
        """
        table = self._tables.get(name)
        if table is None:
            table = await self._open_table(name)
            await table.settings()
            if doubles := await table.remove_doubles():
                log_event("library_repaired", {"library": name, "doubles_removed": doubles}, level=logging.WARNING)
            self._tables[name] = table
            self._maintenance.watch(table)
        return table

    async def infos(self) -> list[LibraryInfo | DamagedLibrary]:
        """Return all libraries as they are now, sorted by name; one that cannot be opened hides no other."""
        found: list[LibraryInfo | DamagedLibrary] = []
        for name in await self.names():
            try:
                found.append(await (await self.open(name)).info())
            except NotInLibraryError:
                continue  # dropped meanwhile
            except LibraryStateError as error:
                found.append(DamagedLibrary(name=name, message=str(error)))
        return found

    async def drop(self, name: str) -> int:
        """Remove a library with everything in it; return how many images that were."""
        try:
            count = await (await self.open(name)).count()
        except LibraryStateError as error:
            if error.reason != _DAMAGED:
                raise
            count = 0
        self._forget(name)
        connection = await self._connect()
        with storage_errors(name):
            await connection.drop_table(name)
        await self.drop_staging(name)
        return count

    async def add(self, name: str, record: Record) -> bool:
        """Add a row, together with those of other calls; return once it is on disk.

        The row is written even if the caller is cancelled.

        Returns:
            Whether it was added: False if the library had its hash already.

        Raises:
            LibraryError: the commit failed, and the row is not in the library.
        """
        table = await self.open(name)
        writer = self._writers.get(name)
        if writer is None:
            writer = self._writers[name] = batch_commits(
                table.insert, committed=lambda rows: self._maintenance.committed(table, rows)
            )
        return await writer.submit(record)

    async def find(self, name: str, sha256: str) -> Record | None:
        """Return an image of a library, if it is there, without large columns; batched with those of other calls."""
        table = await self.open(name)
        lookups = self._lookups.get(name)
        if lookups is None:
            lookups = self._lookups[name] = batch_lookups(table.fetch)
        return await lookups.submit(sha256)

    async def update(self, name: str, sha256: str, changes: Changes) -> bool:
        """Change an image, together with those of other calls; return once it is on disk whether it was there.

        Raises:
            LibraryError: the commit failed, and the image is as it was.
        """
        await self.open(name)
        editor = self._editors.get(name)
        if editor is None:
            editor = self._editors[name] = batch_edits(lambda change, hashes: self.edit(name, change, hashes=hashes))
        return await editor.submit((sha256, changes))

    async def edit(
        self,
        name: str,
        change: Callable[[Record], Record],
        *,
        hashes: Sequence[str] = (),
        where: Filter | None = None,
    ) -> Edited:
        """Change images by their hashes, or those that a filter lets through; see `edits.edit`."""
        table = await self.open(name)
        done = await edit(table, change, hashes=hashes, where=where)
        if done.changed:
            self.changed(table)
        return done

    async def open_handle(self, name: str) -> LibraryTable:
        """Return a library by a handle of its own, which may be turned to another version."""
        return await self._open_table(name)

    async def open_staging(self, name: str, settings: LibrarySettings) -> LibraryTable:
        """Return the table that holds a library's rows while they are embedded anew; make it if need be.

        One that was begun with other settings is begun again.
        """
        beside = _beside(name)
        if beside in await self._table_names():
            table = await self._open_table(beside, called=name)
            if (await table.settings()).model_digest == settings.model_digest:
                return table
            await self.drop_staging(name)
        await self._create_table(beside, settings)
        return await self._open_table(beside, called=name)

    async def drop_staging(self, name: str) -> None:
        """Remove the table that `open_staging` made, if there is one."""
        connection = await self._connect()
        with storage_errors(name):
            await connection.drop_table(_beside(name), ignore_missing=True)

    @contextmanager
    def reembedding(self, name: str) -> Generator[None]:
        """Let one call at a time embed a library anew.

        Raises:
            LibraryStateError: another one does so already.
        """
        if name in self._reembedding:
            message = f'Library "{name}" is being embedded anew already; wait until that is done.'
            raise LibraryStateError("LIBRARY_BUSY", message)
        self._reembedding.add(name)
        try:
            yield
        finally:
            self._reembedding.discard(name)

    def changed(self, table: LibraryTable) -> None:
        """Hear that a library's rows were changed, replaced or deleted, so that it is tidied."""
        self._maintenance.committed(table, 0)

    async def close(self) -> None:
        """Wait for what is being written, and stop what goes on in the background."""
        if self._opening:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        for writer in (*self._writers.values(), *self._editors.values()):
            await writer.close()
        await self._maintenance.close()
        self._tables.clear()
        if self._connection is not None:
            self._connection.close()

    async def _open_all(self) -> None:
        try:
            await self.infos()
        except Exception as error:  # calls will say what is wrong
            log_event("library_maintenance", {"library": "", "failed": str(error)}, level=logging.WARNING)

    def _forget(self, name: str) -> None:
        self._tables.pop(name, None)
        self._writers.pop(name, None)
        self._lookups.pop(name, None)
        self._editors.pop(name, None)
        self._maintenance.forget(name)

    async def _connect(self) -> AsyncConnection:
        async with self._connecting:
            if self._connection is None:
                with storage_errors(self._uri):
                    # Every use looks for newer versions: another process may have written.
                    self._connection = await lancedb.connect_async(self._uri, read_consistency_interval=timedelta(0))
        return self._connection

    async def _table_names(self) -> list[str]:
        connection = await self._connect()
        names: list[str] = []
        token: str | None = None
        with storage_errors(self._uri):
            while True:
                listed = await connection.list_tables(page_token=token)
                names += listed.tables
                token = listed.page_token
                if not token:
                    return names

    async def _open_table(self, name: str, *, called: str | None = None) -> LibraryTable:
        """Open a table, whose errors speak of the library `called` so, or else as the table."""
        connection = await self._connect()
        name_for_errors = called or name
        try:
            with storage_errors(name_for_errors):
                return LibraryTable(name_for_errors, await connection.open_table(name))
        except NotInLibraryError:
            if name not in await self._table_names():
                raise
            raise _damaged(name_for_errors) from None
        except StorageUnavailableError as error:
            # A folder that can be listed can be read: what cannot be understood in it is damaged.
            if "://" in self._uri or explain(str(error.__cause__)):
                raise
            raise _damaged(name_for_errors) from error
        except ValueError as error:
            raise _damaged(name_for_errors) from error

    async def _create_table(self, name: str, settings: LibrarySettings) -> None:
        connection = await self._connect()
        try:
            with storage_errors(name):
                await connection.create_table(name, schema=make_schema(settings))
        except ValueError as cause:
            if "already exists" in str(cause):
                raise LibraryExistsError(name) from cause
            raise


def _damaged(name: str) -> LibraryStateError:
    message = (
        f'Library "{name}" is damaged: its files cannot be read as a library. Restore them from a backup, or remove it '
        f"with `clipsr-client library drop {name}`."
    )
    return LibraryStateError(_DAMAGED, message)


def _beside(name: str) -> str:
    return f"{name}{_SUFFIX_MARK}reembedding"
