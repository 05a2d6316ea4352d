"""Where input and output are: folders of this machine, and buckets of an object store, by the same calls.

The only module that knows obstore, which the extra clipsr[batch] brings. Endpoint, region and access keys are those of
the environment (`AWS_*`), by the names that the gateway's libraries read, too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import io
import os
import re
import secrets
import stat
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import click

from clipsr._errors import ClipsrError
from clipsr._files import write_atomically
from clipsr._images import describe_unreadable
from clipsr.batch._models import Image
from clipsr.cli._inputs import Entry, Item, describe_too_large, read_item, scan_folder

SCHEME = "s3://"

_OTHER_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_BUFFER_BYTES = 1 << 20  # read at once, where a file is read piece by piece
# What a restart of the store takes; then the run ends, and can be resumed.
_RETRIES = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}

# Why nothing of a store can be used, in the words of the Rust library under obstore and Lance, and what to do.
_UNUSABLE = (
    (r"builder error|BadScheme|http URLs are not allowed", "its endpoint is http://, which needs AWS_ALLOW_HTTP=true"),
    (r"169\.254\.169\.254|CredentialsNotLoaded", "there are no access keys in the environment (AWS_ACCESS_KEY_ID …)"),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|\b401 ",
        "it refuses the access keys; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    ),
    (
        r"error sending request|Connect,|ConnectError|dns error|Connection refused",
        "nothing answers at its endpoint; check AWS_ENDPOINT_URL and the network",
    ),
)


class StorageUnavailableError(ClipsrError):
    """An object store cannot be used at all; its text says why."""


class Storage(Protocol):
    """Folders and files by their paths. What goes wrong with one is an OSError.

    A StorageUnavailableError concerns all of them.
    """

    def is_folder(self, path: str) -> bool:
        """Say whether a path is that of a folder; raise FileNotFoundError where nothing is."""
        ...

    def list_folder(self, folder: str) -> list[Entry]:
        """Return what a folder holds."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a file to be read at any place."""
        ...

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        ...

    def read_image(self, path: str, *, max_bytes: int) -> Image:
        """Return the content of an image file, or why there is none."""
        ...

    def make_folder(self, folder: str) -> None:
        """Make a folder and those above it, where they are missing."""
        ...

    def write(self, path: str, content: bytes, *, is_new: bool = False) -> None:
        """Write a file in full or not at all; with `is_new`, raise FileExistsError where there is one."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        ...


def storage_of(path: str) -> Storage:
    """Return what holds a path.

    Raises:
        click.UsageError: it is a URI of another kind than s3://bucket/….
    """
    if path.startswith(SCHEME):
        bucket = path.removeprefix(SCHEME).partition("/")[0]
        if not bucket:
            raise click.UsageError(f"{path!r} names no bucket: write s3://bucket/folder.")
        return _open_bucket(bucket)
    if _OTHER_SCHEME.match(path):
        raise click.UsageError(f"{path!r} is neither a path nor an s3:// URI.")
    return _Disk()


def complete(path: str) -> str:
    """Return a path that is the same for every process: a URI as it is, without a slash at its end; else absolute."""
    if _OTHER_SCHEME.match(path):
        return path.rstrip("/") if path != SCHEME else path
    return str(Path(path).absolute())


def join(folder: str, name: str) -> str:
    """Return the path of something in a folder; a path of this machine that is absolute is in none."""
    return f"{folder}/{name}" if folder.startswith(SCHEME) and not name.startswith("/") else str(Path(folder, name))


@contextlib.contextmanager
def storage_errors(path: str) -> Generator[None]:
    """Turn what obstore and Lance raise into what this module says that it raises.

    Raises:
        OSError: what is wrong concerns this path.
        StorageUnavailableError: it concerns the whole store.
    """
    try:
        yield
    except Exception as error:
        if (found := _translate(path, error)) is error:
            raise
        raise found from error


def _translate(path: str, error: Exception) -> Exception:
    text, kind = str(error), type(error).__name__
    bucket = f"{SCHEME}{path.removeprefix(SCHEME).partition('/')[0]}"
    if "NoSuchBucket" in text:
        return FileNotFoundError(f"there is no bucket {bucket}")
    for pattern, cause in _UNUSABLE:
        if path.startswith(SCHEME) and re.search(pattern, text):
            return StorageUnavailableError(f"The object store of {bucket} cannot be used: {cause}.")
    if isinstance(error, FileNotFoundError) and path.startswith(SCHEME):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if isinstance(error, OSError):
        return error
    first = text.partition("\n")[0]
    if kind == "AlreadyExistsError":
        return FileExistsError(first)
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or "AccessDenied" in text:
        return PermissionError("it may not be read or written by these access keys")
    if kind == "InvalidPathError":
        return OSError("it holds a key with an empty part, or with . or .., which cannot be read")
    if type(error).__module__.startswith("obstore"):
        return StorageUnavailableError(f"The object store of {bucket} cannot be used: {first[:300]}")
    return error


class _Disk:
    """Folders of this machine."""

    def is_folder(self, path: str) -> bool:
        return stat.S_ISDIR(Path(path).stat().st_mode)

    def list_folder(self, folder: str) -> list[Entry]:
        return scan_folder(folder)

    def open(self, path: str) -> BinaryIO:
        return Path(path).open("rb")

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def read_image(self, path: str, *, max_bytes: int) -> Image:
        return read_item(Item(path=path), max_bytes=max_bytes)

    def make_folder(self, folder: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)

    def write(self, path: str, content: bytes, *, is_new: bool = False) -> None:
        target = Path(path)
        if not is_new:
            write_atomically(target, content, is_durable=True)
            return
        part = target.parent / f".{secrets.token_hex(8)}.part"
        write_atomically(part, content, is_durable=True)
        try:
            os.link(part, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def remove(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)


@functools.cache
def _open_bucket(name: str) -> _Bucket:
    try:
        obstore: Any = importlib.import_module("obstore")
        stores: Any = importlib.import_module("obstore.store")
    except ImportError:
        raise click.UsageError("s3:// needs obstore: pip install 'clipsr[batch]'.") from None
    return _Bucket(name, obstore, stores.S3Store(name, retry_config=_RETRIES))


@dataclass(frozen=True, slots=True)
class _Bucket:
    """A bucket, whose folders are what its keys have before a slash; an object appears in full or not at all."""

    name: str
    obstore: Any
    store: Any

    def is_folder(self, path: str) -> bool:
        with storage_errors(path):
            try:
                if next(iter(self.obstore.list(self.store, self._key(path) or None, chunk_size=1)), None):
                    return True
            except self.obstore.exceptions.InvalidPathError:  # of a key there
                return True
            self.obstore.head(self.store, self._key(path))
        return False

    def list_folder(self, folder: str) -> list[Entry]:
        key = self._key(folder)
        with storage_errors(folder):
            listed = self.obstore.list_with_delimiter(self.store, key or None)
        # A folder that a console made is an empty object, whose key ends with a slash.
        objects: list[str] = [found["path"] for found in listed["objects"] if found["path"] != key]
        return [
            Entry(path=f"{SCHEME}{self.name}/{path}", name=path.rpartition("/")[2], is_folder=is_folder)
            for paths, is_folder in ((objects, False), (listed["common_prefixes"], True))
            for path in paths
        ]

    def open(self, path: str) -> BinaryIO:
        with storage_errors(path):
            size: int = self.obstore.head(self.store, self._key(path))["size"]
        return io.BufferedReader(_Object(self, path, size), _BUFFER_BYTES)

    def read(self, path: str) -> bytes:
        with storage_errors(path):
            return bytes(self.obstore.get(self.store, self._key(path)).bytes())

    def read_image(self, path: str, *, max_bytes: int) -> Image:
        try:
            with storage_errors(path):
                answer = self.obstore.get(self.store, self._key(path))
                is_too_large = answer.meta["size"] > max_bytes
                return describe_too_large(max_bytes) if is_too_large else bytes(answer.bytes())
        except OSError as error:
            return describe_unreadable(error, "file")

    def read_range(self, path: str, start: int, length: int) -> memoryview:
        with storage_errors(path):
            return memoryview(self.obstore.get_range(self.store, self._key(path), start=start, length=length))

    def make_folder(self, folder: str) -> None:
        pass

    def write(self, path: str, content: bytes, *, is_new: bool = False) -> None:
        with storage_errors(path):
            if is_new:
                # Of a store without conditional writes, AWS_CONDITIONAL_PUT=disabled says so.
                with contextlib.suppress(NotImplementedError):
                    self.obstore.put(self.store, self._key(path), content, mode="create")
                    return
            self.obstore.put(self.store, self._key(path), content)

    def remove(self, path: str) -> None:
        with storage_errors(path), contextlib.suppress(FileNotFoundError):
            self.obstore.delete(self.store, self._key(path))

    def _key(self, path: str) -> str:
        return path.removeprefix(f"{SCHEME}{self.name}").strip("/")


class _Object(io.RawIOBase):
    """An object, read piece by piece."""

    def __init__(self, bucket: _Bucket, path: str, size: int) -> None:
        self._bucket, self._path, self._size, self._place = bucket, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + (0, self._place, self._size)[whence])
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._place)
        if length <= 0:
            return 0
        buffer[:length] = self._bucket.read_range(self._path, self._place, length)
        self._place += length
        return length
