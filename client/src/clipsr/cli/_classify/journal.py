"""The journal of a bulk run: what is done, on disk before it counts, so that an interruption loses nothing.

An SQLite database beside the output: a row for the run and its settings, and a row for each image that is done. Each
change is a transaction of its own in a write-ahead log: a kill loses none, a power failure at most those of the last
seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

from clipsr.cli._classify.records import Record

_VERSION = 2  # of the database, as its user_version; 1 was a file of JSON lines
_MAGIC = b"SQLite format 3\0"  # https://www.sqlite.org/fileformat.html, section 1.3
_SYNC_EVERY_S = 2.0  # what a power failure may cost
_BUSY = "database is locked"  # sqlite3.Error has no code before Python 3.11

_LOCK = ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE", "COMMIT")

_SCHEMA = (
    f"PRAGMA user_version = {_VERSION}",
    "CREATE TABLE run (settings TEXT NOT NULL, is_finished INTEGER NOT NULL)",
    "CREATE TABLE images (path BLOB NOT NULL UNIQUE, n INTEGER NOT NULL, status TEXT NOT NULL, record TEXT NOT NULL)",
    "CREATE INDEX images_by_n ON images (n)",
)


class JournalError(Exception):
    """The journal cannot be used; the text says what to do.

    Attributes:
        is_output: whether it could not be written, rather than does not fit what is asked.
    """

    def __init__(self, message: str, *, is_output: bool = False) -> None:
        super().__init__(message)
        self.is_output = is_output


class Journal:
    """What a run, over all of its interruptions, has done; in memory that does not grow with it.

    It is locked against a second run until it is closed. claim() may be called in another thread than the rest.

    Args:
        path: the file; made if it is not there.
        is_restarted: throws away what earlier runs did.

    Raises:
        JournalError: the file is in use, damaged or no journal of this version, or cannot be written.
    """

    def __init__(self, path: Path, *, is_restarted: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._claimed: dict[bytes, int] = {}  # images under way, and their places in the walk
        self._synced_s = time.monotonic()
        with self._errors():
            if is_restarted:
                self._throw_away()
            self._check_kind()
            self._db = _connect(path)
        try:
            (version,) = self._row("PRAGMA user_version")
            is_new = not version and self._row("SELECT 1 FROM sqlite_master") is None
            if not is_new and version != _VERSION:
                raise self._foreign()
            self._row("PRAGMA journal_mode = WAL")
            self._row("PRAGMA synchronous = NORMAL")
            if is_new:
                self._create()
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def __len__(self) -> int:
        (count,) = self._row("SELECT count(*) FROM images")
        return count

    def count_failed(self) -> int:
        """Return how many images are done and failed."""
        (count,) = self._row("SELECT count(*) FROM images WHERE status != 'OK'")
        return count

    @property
    def is_finished(self) -> bool:
        """Whether the output was written; the journal was kept for the images that failed."""
        return self._row("SELECT 1 FROM run WHERE is_finished") is not None

    def begin(self, settings: Mapping[str, Any], *, retries_failed: bool = False) -> None:
        """Start a run, or resume the one that is there.

        Args:
            settings: what is asked; a journal of other settings is refused.
            retries_failed: forgets the images that failed.

        Raises:
            JournalError: the settings differ, or the file cannot be written.
        """
        run = self._row("SELECT settings FROM run")
        known: Mapping[str, Any] = settings if run is None else json.loads(run[0])
        different = [name for name, value in settings.items() if known.get(name) != value]
        if different:
            raise JournalError(
                f"The journal {str(self.path)!r} is of a run with other settings ({', '.join(different)}): use "
                f"the same ones to resume it, choose another --output, or begin again with --restart."
            )
        if run is None:
            self._execute("INSERT INTO run VALUES (?, 0)", json.dumps(settings))
        self._execute("UPDATE run SET is_finished = 0")
        if retries_failed:
            self._execute("DELETE FROM images WHERE status != 'OK'")

    def claim(self, path: str, *, place: int) -> bool:
        """Return whether an image is neither done nor claimed before; from now on it is claimed.

        Args:
            path: of the image; all names of a file are one image, but links are different files.
            place: its place in the walk, by which records() sorts.

        Raises:
            JournalError: as append().
        """
        key = _key(path)
        with self._lock:
            if key in self._claimed or self._row("SELECT 1 FROM images WHERE path = ?", key) is not None:
                return False
            self._claimed[key] = place
            return True

    def append(self, record: Record) -> None:
        """Write down the outcome of an image that was claimed.

        Raises:
            JournalError: the disk is full, or fails; the journal holds what it held before.
        """
        content, key = json.dumps(record, separators=(",", ":")), _key(record["path"])
        with self._lock:
            statement = "INSERT INTO images VALUES (?, ?, ?, ?)"
            self._execute(statement, key, self._claimed[key], record["status"], content)
            del self._claimed[key]
        if time.monotonic() - self._synced_s > _SYNC_EVERY_S:
            self._execute("PRAGMA wal_checkpoint")
            self._synced_s = time.monotonic()

    def records(self) -> Iterator[Record]:
        """Yield every record once, in the order in which the images were found."""
        with self._errors():
            for (content,) in self._db.execute("SELECT record FROM images ORDER BY n"):
                yield json.loads(content)

    def finish(self) -> None:
        """Note that the output is written."""
        self._execute("UPDATE run SET is_finished = 1")

    def clear(self) -> None:
        """Forget everything."""
        self._execute("DELETE FROM images")
        self._execute("DELETE FROM run")

    def remove(self) -> None:
        """Delete the file."""
        self._close()
        _unlink(self.path)

    def _close(self) -> None:
        # SQLite ends the process where a statement of another thread is under way.
        with self._lock:
            self._db.close()

    def _execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        with self._lock, self._errors():
            return self._db.execute(statement, values)

    def _row(self, statement: str, *values: object) -> Any:
        with self._lock:
            return self._execute(statement, *values).fetchone()

    def _create(self) -> None:
        with self._errors(), self._db:  # one transaction
            self._db.execute("BEGIN")
            for statement in _SCHEMA:
                self._db.execute(statement)

    def _throw_away(self) -> None:
        """Delete the file, unless another run holds it."""
        try:
            _connect(self.path).close()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # damaged, or no database
            pass
        _unlink(self.path)

    def _check_kind(self) -> None:
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            if (start := file.read(len(_MAGIC))) and start != _MAGIC:
                raise self._foreign()

    def _foreign(self) -> JournalError:
        return JournalError(
            f"{str(self.path)!r} is no journal of this version, but perhaps an earlier one's: finish that run with the "
            f"version that began it, begin again with --restart, or choose another --output."
        )

    @contextlib.contextmanager
    def _errors(self) -> Generator[None, None, None]:
        """Put errors of the database and of its file into sentences."""
        path = repr(str(self.path))
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            if str(error) == _BUSY:
                message = f"Another run is writing {path}: wait for it, or choose another --output."
                raise JournalError(message) from error
            raise JournalError(
                f"The journal {path} cannot be written: {error}. Make room, or choose another --output; what is done "
                f"stays done, and the same command resumes.",
                is_output=True,
            ) from error
        except sqlite3.DatabaseError as error:
            raise JournalError(f"The journal {path} is damaged: begin again with --restart.") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database that no other process has open, or will until it is closed."""
    database = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        for statement in _LOCK:
            database.execute(statement)
    except BaseException:
        database.close()
        raise
    return database


def _unlink(path: Path) -> None:
    for ending in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _key(path: str) -> bytes:
    return os.fsencode(os.path.abspath(path))  # noqa: PTH100 - pathlib keeps ".."
