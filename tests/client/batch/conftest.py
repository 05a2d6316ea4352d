"""Folders to read and write: of this machine, and of a bucket of a real S3 server."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.object_store import ObjectStore, object_store

from clipsr.batch import _storage

_NUMBERS = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder for a test.

    Attributes:
        path: as clipsr-batch takes it.
        put: writes a file there by its path in the folder.
        remove: removes one.
    """

    path: str
    put: Callable[[str, bytes], object]
    remove: Callable[[str], object]


@pytest.fixture(scope="session")
def server() -> Iterator[ObjectStore]:
    """The S3 server of all tests that do not stop it."""
    with object_store() as started:
        yield started


@pytest.fixture
def store(server, monkeypatch) -> Iterator[ObjectStore]:
    """The S3 server, whose settings are those of the environment; a store that is gone is soon given up."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(_storage, "_RETRIES", {"max_retries": 1})
    _storage._open_bucket.cache_clear()
    yield server
    _storage._open_bucket.cache_clear()


@pytest.fixture
def bucket(store) -> str:
    """The name of an empty bucket."""
    name = f"bucket-{next(_NUMBERS)}"
    store.make_bucket(name)
    return name


@pytest.fixture
def disk_place(tmp_path: Path) -> Place:
    """An empty folder of this machine."""
    folder = tmp_path / "place"
    folder.mkdir()

    def put(name: str, content: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return Place(path=str(folder), put=put, remove=lambda name: (folder / name).unlink())


@pytest.fixture
def bucket_place(store, bucket) -> Place:
    """An empty folder of a bucket."""
    return Place(
        path=f"s3://{bucket}/a place",
        put=lambda name, content: store.client.put_object(Bucket=bucket, Key=f"a place/{name}", Body=content),
        remove=lambda name: store.client.delete_object(Bucket=bucket, Key=f"a place/{name}"),
    )


@pytest.fixture(params=["disk", "bucket"])
def place(request) -> Place:
    """Either."""
    return request.getfixturevalue(f"{request.param}_place")
