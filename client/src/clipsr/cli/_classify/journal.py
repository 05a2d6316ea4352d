"""The journal of a bulk run: what is done, on disk before it counts, so that any interruption loses nothing.

A file of JSON lines beside the output. The first line says what was asked, each other one what became of one image.
Lines are only ever appended, each by one write, so whatever kills the process leaves at most one torn line, at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

Record = dict[str, Any]
"""What became of one image; docs/cli.md lists its fields. Its place in the walk, "n", is the journal's own."""

_VERSION = 1
_SYNC_EVERY_S = 2.0  # what a power failure may cost; a kill costs nothing
_KEY_BYTES = 16  # at a billion images two have the same key with a probability of 1e-21


class JournalError(Exception):
    """The journal cannot be used; the text says what to do.

    Attributes:
        is_output: whether it could not be written, rather than does not fit what is asked.
    """

    def __init__(self, message: str, *, is_output: bool = False) -> None:
        super().__init__(message)
        self.is_output = is_output


class Journal:
    """What a run, over all of its interruptions, has done.

    Memory grows by 100 to 200 bytes an image, on which keys and places take part; the records stay on the disk.

    Args:
        path: the file; made if it is not there.
        settings: what is asked; a journal of other settings is refused.
        folder: what relative paths are relative to.
        is_restarted: throws away what earlier runs did.

    Raises:
        JournalError: the file belongs to another run, is in use, is damaged, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, folder: Path, is_restarted: bool = False) -> None:
        self.path = path
        self.failed = 0
        self._folder = folder
        self._keys: set[bytes] = set()
        self._places = array("q")  # of each record in the walk …
        self._offsets = array("q")  # … and in the file
        self._end = 0
        self._synced_s = time.monotonic()
        try:
            self._file: BinaryIO = path.open("a+b", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            self._lock()
            if is_restarted:
                self._file.truncate(0)
            self._load(dict(settings))
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._offsets)

    def claim(self, path: str) -> bool:
        """Return whether an image is neither done nor claimed before; from now on it is claimed."""
        key = self._make_key(path, self._folder)
        if key in self._keys:
            return False
        self._keys.add(key)
        return True

    def append(self, record: Record, *, place: int) -> None:
        """Write down what became of one image.

        Raises:
            JournalError: the disk is full, or fails; the journal holds what it held before.
        """
        self._write({**record, "n": place})
        self._note(record, place, self._end)
        if time.monotonic() - self._synced_s > _SYNC_EVERY_S:
            self._sync()

    def records(self) -> Iterator[Record]:
        """Yield every record once, in the order in which the images were found."""
        self._sync()
        places = self._places
        for index in sorted(range(len(places)), key=places.__getitem__):
            self._file.seek(self._offsets[index])
            record: Record = json.loads(_read_line(self._file))
            del record["n"]
            yield record

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, which lets another run use it."""
        self._file.close()

    def _lock(self) -> None:
        if sys.platform == "win32":
            return  # without advisory locks, two runs into one output are the user's to avoid
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise JournalError(
                f"Another run is writing {str(self.path)!r}: wait for it, or choose another --output."
            ) from None

    def _load(self, settings: Record) -> None:
        """Take in what earlier runs did, and cut off a line that was never finished."""
        self._file.seek(0)
        header: Record | None = None
        torn_at: int | None = None
        offset = 0
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            for line in lines:
                content = _parse(line)
                if content is None:
                    torn_at = offset if torn_at is None else torn_at
                elif torn_at is not None:
                    raise JournalError(f"The journal {str(self.path)!r} is damaged: begin again with --restart.")
                elif header is None:
                    header = self._check(content, settings)
                else:
                    self._take_over(content, offset, Path(header["folder"]))
                offset += len(line)
        self._end = offset if torn_at is None else torn_at
        if self._end < offset:
            self._file.truncate(self._end)
        if header is None:
            self._write({"clipsr_journal": _VERSION, "folder": str(self._folder), "settings": settings})
            self._sync()

    def _check(self, header: Record, settings: Record) -> Record:
        known: Record = header.get("settings", {})
        if header.get("clipsr_journal") != _VERSION or "folder" not in header:
            raise JournalError(
                f"{str(self.path)!r} is no journal of this version: move it away, or choose another --output."
            )
        different = [name for name, value in settings.items() if known.get(name) != value]
        if different:
            raise JournalError(
                f"The journal {str(self.path)!r} is of a run with other settings ({', '.join(different)}): use "
                f"the same ones to go on with it, choose another --output, or begin again with --restart."
            )
        return header

    def _take_over(self, record: Record, offset: int, folder: Path) -> None:
        key = self._make_key(record["path"], folder)
        if key not in self._keys:
            self._keys.add(key)
            self._note(record, record["n"], offset)

    def _note(self, record: Record, place: int, offset: int) -> None:
        """Count a record that lies at an offset of the file."""
        self._places.append(place)
        self._offsets.append(offset)
        self.failed += record["status"] != "OK"

    def _write(self, content: Record) -> None:
        """Append a line in full or not at all."""
        line = json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes a part first
                written += self._file.write(line[written:]) or 0
        except OSError as error:
            with contextlib.suppress(OSError):  # the next run cuts a torn line off anyway
                self._file.truncate(start)
            raise self._unwritable(error) from error
        self._end = start

    def _sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        self._synced_s = time.monotonic()

    def _unwritable(self, error: OSError) -> JournalError:
        done = f"; the {len(self):,} images that are done stay done, and the same command goes on" if len(self) else ""
        message = (
            f"The journal {str(self.path)!r} cannot be written: {error.strerror}. Make room, or choose another --output"
        )
        return JournalError(f"{message}{done}.", is_output=True)

    @staticmethod
    def _make_key(path: str, folder: Path) -> bytes:
        """Return what identifies a file, however it is named; links are different files."""
        absolute = os.path.normpath(os.path.join(folder, path))  # noqa: PTH118 - pathlib keeps ".."
        return blake2b(os.fsencode(absolute), digest_size=_KEY_BYTES).digest()


def _parse(line: bytes) -> Record | None:
    """Return a line's object; None if it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    is_record = isinstance(content, dict) and ("clipsr_journal" in content or {"path", "status", "n"} <= content.keys())
    return content if is_record else None  # pyright: ignore[reportUnknownVariableType] - JSON


def _read_line(file: BinaryIO) -> bytes:
    """Return the rest of a line; the file has no buffer of its own."""
    parts: list[bytes] = []
    while part := file.read(4_096):
        end = part.find(b"\n")
        if end >= 0:
            parts.append(part[:end])
            break
        parts.append(part)
    return b"".join(parts)
