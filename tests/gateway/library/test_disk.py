"""What stays on disk: no doubles whatever writes, nothing of deleted images, and one damaged library hides no other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.library_rows import SETTINGS, row

from clipsr_gateway import LibraryStateError, StorageUnavailableError
from clipsr_gateway._calls.status import status_from_error
from clipsr_gateway._library.store import disk
from clipsr_gateway._library.store.disk import Version, split_expired
from clipsr_gateway._library.store.maintenance import MaintenanceConfig
from clipsr_gateway._library.store.records import DamagedLibrary
from clipsr_gateway._library.store.schema import make_schema, to_arrow
from clipsr_gateway._library.store.storage_errors import storage_errors
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_gateway.errors import StorageFullError

pytestmark = pytest.mark.timeout(180)

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
AT_ONCE = timedelta(0)


def open_store(folder: Path, **options: object) -> LibraryStore:
    return LibraryStore(str(folder), max_libraries=8, maintenance=MaintenanceConfig(idle_s=0.01, **options))


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[LibraryStore]:
    opened = open_store(tmp_path / "libraries", scalar_index_rows=16)
    await opened.create("pets", SETTINGS)
    yield opened
    await opened.close()


def files_with(folder: Path, needle: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


async def test_two_writers_make_no_doubles_where_hashes_are_indexed(store, tmp_path):
    other = open_store(tmp_path / "libraries", scalar_index_rows=16)
    one, two = await store.open("pets"), await other.open("pets")
    await one.insert([row(number) for number in range(20)])
    await store._maintenance.tidy(one)
    assert "sha256_idx" in {index.name for index in await one.raw.list_indices()}
    for turn in range(10):
        new = [row(100 + 4 * turn + place) for place in range(4)]
        added = await asyncio.gather(one.insert(new), two.insert(new))
        assert len(added[0]) + len(added[1]) == 4
    hashes = await one.hashes()
    assert len(hashes) == len(set(hashes)) == 60
    await other.close()


async def test_doubles_of_earlier_releases_are_removed_when_a_library_is_opened(store, tmp_path):
    table = await store.open("pets")
    await table.insert([row(number) for number in range(5)])
    first = {record.sha256: record.add_time_us for record in await table.fetch(await table.hashes())}
    later = max(first.values()) + 10
    again = [row(number, add_time_us=later) for number in (1, 3)]
    await table.raw.add(to_arrow(again, make_schema(await table.settings())))
    assert max(Counter(await table.hashes()).values()) == 2
    other = open_store(tmp_path / "libraries")
    opened = await other.open("pets")
    assert {record.sha256: record.add_time_us for record in await opened.fetch(await opened.hashes())} == first
    assert await opened.count() == 5
    assert await opened.remove_doubles() == 0
    await other.close()


async def test_a_deleted_image_leaves_the_disk_though_its_neighbours_stay(store, tmp_path):
    """One row of many: far below the share at which compaction alone would write its file again."""
    table = await store.open("pets")
    await table.insert([row(number) for number in range(50)])
    secret = row(7)
    assert secret.original
    assert files_with(tmp_path, secret.original)
    await table.delete(hashes=[secret.sha256])
    assert await disk.rewrite_deletions(table)
    assert await disk.remove_expired_versions(table, keep=AT_ONCE) is None
    assert not files_with(tmp_path, secret.original)
    assert await table.count() == 49
    assert not await disk.rewrite_deletions(table)


async def test_cleaning_up_needs_no_later_write_and_happens_after_a_restart(store, tmp_path):
    table = await store.open("pets")
    await table.insert([row(number) for number in range(10)])
    await table.delete(hashes=[row(3).sha256])
    await store.close()
    again = open_store(tmp_path / "libraries", keep_versions=AT_ONCE)
    again.start()
    secret = row(3).original
    assert secret
    while files_with(tmp_path, secret):
        await asyncio.sleep(0.05)
    await again.close()


async def test_a_version_that_was_replaced_a_moment_ago_is_kept(store):
    table = await store.open("pets")
    await table.insert([row(number) for number in range(3)])
    await table.delete(hashes=[row(1).sha256])
    wait_s = await disk.remove_expired_versions(table, keep=timedelta(hours=1))
    assert wait_s is not None
    assert 3500 < wait_s <= 3600
    assert len(await table.raw.list_versions()) >= 2


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20))
def test_a_version_expires_by_the_age_of_its_successor(ages_s):
    ages_s = sorted(ages_s, reverse=True)
    versions = [Version(number=i, written=NOW - timedelta(seconds=age)) for i, age in enumerate(ages_s)]
    expired, wait_s = split_expired(versions[::-1], now=NOW, keep=timedelta(seconds=900))
    replaced_s = ages_s[1:]
    assert expired == [i for i, age in enumerate(replaced_s) if age >= 900]
    left = [900 - age for age in replaced_s if age < 900]
    assert wait_s == (left[0] if left else None)


async def test_deleting_nothing_commits_nothing(store):
    table = await store.open("pets")
    before = await table.version()
    assert await table.delete(hashes=["0" * 64]) == 0
    assert await table.version() == before


async def test_the_size_is_what_the_disk_holds(store, tmp_path):
    table = await store.open("pets")
    await table.insert([row(number) for number in range(10)])
    await table.delete(hashes=[row(number).sha256 for number in range(10)])
    on_disk = sum(path.stat().st_size for path in (tmp_path / "libraries" / "pets.lance").rglob("*") if path.is_file())
    assert (await table.info()).size_bytes == on_disk > 0


async def test_a_damaged_library_is_listed_beside_the_others_and_can_be_dropped(store, tmp_path):
    folder = tmp_path / "libraries"
    await store.create("broken", SETTINGS)
    for manifest in (folder / "broken.lance" / "_versions").iterdir():
        manifest.write_bytes(b"")
    (folder / "good copy.lance").mkdir()
    (folder / "good copy.lance" / "notes.txt").touch()
    fresh = open_store(folder)
    found = {info.name: info for info in await fresh.infos()}
    assert not isinstance(found["pets"], DamagedLibrary)
    assert isinstance(found["broken"], DamagedLibrary)
    assert "library drop broken" in found["broken"].message
    assert isinstance(found["good copy"], DamagedLibrary)
    with pytest.raises(LibraryStateError, match="is damaged") as caught:
        await fresh.open("broken")
    assert caught.value.reason == "LIBRARY_DAMAGED"
    assert await fresh.drop("broken") == 0
    assert "broken" not in await fresh.names()
    await fresh.close()


@pytest.mark.parametrize(
    ("cause", "said", "is_lasting"),
    [
        (
            'IO { source: Generic { store: "S3", source: RetryError(HttpError { source: BadScheme }) } }',
            "AWS_ALLOW_HTTP",
            True,
        ),
        (
            'IO { source: HttpError { kind: Connect, source: ConnectError("tcp connect error") } }',
            "nothing answers",
            False,
        ),
        ("Object store error: Generic S3 error: NoSuchBucket", "no such bucket", True),
        ("Generic S3 error: HttpError { status: 403 Forbidden }", "credentials", True),
        ("LanceError(IO): Permission denied (os error 13)", "may not read or write", True),
        ("LanceError(IO): something new", "The log of the gateway", False),
        ("Too many concurrent writers", "at the same time", False),
    ],
)
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError])
def test_a_storage_that_fails_says_why(cause, said, is_lasting, kind):
    """And asks to come back only where that can help: no attempt makes a bucket."""
    with pytest.raises(StorageUnavailableError, match=said) as caught, storage_errors("pets"):
        raise kind(cause)
    details = [detail.TypeName() for detail in status_from_error(caught.value, "1").details]
    assert ("google.rpc.RetryInfo" in details) != is_lasting


def test_a_full_disk_and_a_fault_of_the_program_are_told_apart():
    with pytest.raises(StorageFullError), storage_errors("pets"):
        raise OSError("write failed: No space left on device (os error 28)")
    with pytest.raises(ValueError, match="SQL"), storage_errors("pets"):
        raise ValueError("SQL error: no such column")


async def test_an_object_store_that_does_not_answer_is_unavailable(monkeypatch, unused_port):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": f"http://127.0.0.1:{unused_port}", "AWS_ALLOW_HTTP": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    store = LibraryStore("s3://libs/x", max_libraries=4)
    with pytest.raises(StorageUnavailableError, match="nothing answers"):
        await store.names()
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    plain = LibraryStore("s3://libs/x", max_libraries=4)
    with pytest.raises(StorageUnavailableError, match="AWS_ALLOW_HTTP=true"):
        await plain.names()
    await store.close()
    await plain.close()
