"""The store of libraries: real tables on a real disk, other writers, lost power, no room."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from tests.gateway.library_rows import DIGEST, SETTINGS, embedding, is_whole, row

from clipsr_gateway import LibraryStateError, NotInLibraryError, StorageFullError
from clipsr_gateway._library.store.maintenance import Maintenance, MaintenanceConfig
from clipsr_gateway._library.store.records import Filter, Parts, Record
from clipsr_gateway._library.store.reembed import Progress, Reembedding
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_gateway._library.store.table import LibraryTable

# Each use of LanceDB in a new process loads 180 MB.
pytestmark = pytest.mark.timeout(180)

EVERYTHING = Parts(thumbnail=True, original=True, embedding=True)
OTHER_DIGEST = "sha256:" + "cd" * 32


def open_store(uri: Path) -> LibraryStore:
    return LibraryStore(str(uri), max_libraries=4)


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[LibraryStore]:
    """A store with an empty library "pets"."""
    opened = open_store(tmp_path / "libraries")
    await opened.create("pets", SETTINGS)
    yield opened
    await opened.close()


async def rows_of(table: LibraryTable) -> list[Record]:
    return await table.fetch(await table.hashes(), EVERYTHING)


def nearest(query: np.ndarray, numbers: list[int], count: int) -> list[str]:
    """By plain numpy: the sources of the rows that a search should find."""
    cosine = np.stack([embedding(number) for number in numbers]) @ query
    return [f"{numbers[place]}.png" for place in np.argsort(-cosine)[:count]]


async def test_rows_come_back_as_they_were_written(store):
    assert await store.add("pets", row(1))
    (read,) = await rows_of(await store.open("pets"))
    assert is_whole(read)
    assert replace(read, add_time_us=0, embedding=None) == replace(row(1), embedding=None)
    assert abs(read.add_time_us / 1e6 - time.time()) < 60


async def test_concurrent_rows_share_commits(store):
    table = await store.open("pets")
    before = await table.version()
    assert all(await asyncio.gather(*(store.add("pets", row(number)) for number in range(128))))
    assert await table.version() - before <= 4
    times = [record.add_time_us for record in await rows_of(table)]
    assert len(set(times)) == 128


async def test_two_writers_add_every_image_once(store, tmp_path):
    other = open_store(tmp_path / "libraries")
    numbers = list(range(60))
    added = await asyncio.gather(
        *(one.add("pets", row(number)) for number in numbers for one in (store, other)),
    )
    assert sum(added) == 60
    rows = await rows_of(await store.open("pets"))
    assert sorted(int(record.metadata["number"]) for record in rows) == numbers
    await other.close()


async def test_a_reader_sees_whole_rows_while_indexes_are_built_and_others_write(store, tmp_path):
    table = await store.open("pets")
    await table.insert([row(number) for number in range(1000)])
    maintenance = Maintenance(MaintenanceConfig(scalar_index_rows=100, vector_index_rows=500))
    other = open_store(tmp_path / "libraries")
    query, wrong = embedding(10_000), []

    async def read() -> None:
        expected = nearest(query, list(range(1000)), 5)
        while not building.done():
            found = await table.find(query, top_k=5, where=Filter(added_before_us=cut), parts=Parts(), is_exact=True)
            wrong.extend([] if [one.record.source for one in found] == expected else [found])

    async def write() -> None:
        for start in range(1000, 1200, 20):
            await asyncio.gather(*(other.add("pets", row(number)) for number in range(start, start + 20)))

    cut = max(record.add_time_us for record in await rows_of(table)) + 1
    building = asyncio.create_task(maintenance.tidy(table))
    await asyncio.gather(building, read(), write())
    assert not wrong
    rows = await rows_of(table)
    assert sorted(int(record.metadata["number"]) for record in rows) == list(range(1200))
    assert all(is_whole(record) for record in rows)
    info = await table.info()
    assert info.indexed_count is not None
    assert info.indexed_count >= 1000
    await other.close()


async def test_an_index_finds_what_comparing_all_finds(store):
    table = await store.open("pets")
    await table.insert([row(number) for number in range(1500)])
    await Maintenance(MaintenanceConfig(scalar_index_rows=100, vector_index_rows=500)).tidy(table)
    await table.insert([row(number) for number in range(1500, 1600)])
    assert (await table.info()).indexed_count == 1500
    hits = 0
    for seed in range(20):
        query = embedding(20_000 + seed)
        found = await table.find(query, top_k=10, where=Filter(), parts=Parts())
        hits += len({one.record.source for one in found} & set(nearest(query, list(range(1600)), 10)))
        some = await table.find(query, top_k=10, where=Filter(any_tags=("t3",)), parts=Parts())
        assert {one.record.tags for one in some} == {("t3",)}
        assert len(some) == 10
    assert hits >= 0.95 * 200
    (itself,) = await table.find(embedding(1550), top_k=1, where=Filter(), parts=Parts())
    assert itself.record.source == "1550.png"  # not in the index
    narrow = await table.find(query, top_k=10, where=Filter(metadata={"number": "77"}), parts=Parts())
    assert [one.record.source for one in narrow] == ["77.png"]


async def test_an_index_is_built_anew_when_the_library_has_doubled(store):
    table = await store.open("pets")
    maintenance = Maintenance(MaintenanceConfig(scalar_index_rows=10_000, vector_index_rows=300))

    async def names() -> list[str]:
        return sorted(index.name for index in await table.raw.list_indices())

    for rows, expected in ((200, []), (400, ["embedding_400"]), (700, ["embedding_400"]), (800, ["embedding_800"])):
        there = await table.count()
        await table.insert([row(number) for number in range(there, rows)])
        await maintenance.tidy(table)
        assert await names() == expected
        assert (await table.info()).indexed_count == (rows if expected else None)
        (best,) = await table.find(embedding(rows - 1), top_k=1, where=Filter(), parts=Parts())
        assert best.record.source == f"{rows - 1}.png"


async def test_no_text_is_read_as_sql(store):
    nasty = [
        "'",
        "''",
        "' OR 1=1 --",
        "\\",
        "\\'",
        "%",
        "_",
        "a\nb",
        "\u0000",
        "{}",
        "`x`",
        '"x"',
        "日本",
        "\U0001f436",
        "x;",
    ]
    table = await store.open("pets")
    await table.insert(
        [
            row(number, source=text, tags=(text,), metadata={"number": str(number), "k": text})
            for number, text in enumerate(nasty)
        ]
    )
    for number, text in enumerate(nasty):
        for where in (Filter(all_tags=(text,)), Filter(any_tags=(text,)), Filter(metadata={"k": text})):
            page = await table.page(size=100, where=where, after=None, newest_first=False)
            assert [record.metadata["number"] for record in page.records] == [str(number)]
        page = await table.page(size=100, where=Filter(source_prefix=text), after=None, newest_first=False)
        expected = [str(place) for place, other in enumerate(nasty) if other.startswith(text)]
        assert [record.metadata["number"] for record in page.records] == expected


async def test_killed_at_any_moment_nothing_acknowledged_is_lost(tmp_path):
    """`kill -9` of a process that adds rows and joins files; the next one goes on where it was."""
    uri = tmp_path / "libraries"
    store = open_store(uri)
    await store.create("pets", SETTINGS)
    await store.close()
    acknowledged: set[int] = set()
    for attempt in range(2):
        start = len(acknowledged)
        log = tmp_path / f"{attempt}.log"
        command = [sys.executable, "-m", "tests.gateway.library_rows", str(uri), str(start)]
        with log.open("wb") as output:
            adding = subprocess.Popen(command, stdout=output, cwd=Path(__file__).parents[3])
            await asyncio.to_thread(wait_for_lines, log, 1)
            await asyncio.sleep(random.uniform(0, 2))
            adding.kill()
            adding.wait()
        acknowledged |= {int(line) for line in log.read_text("utf-8").split()}
        store = open_store(uri)
        rows = await rows_of(await store.open("pets"))
        numbers = [int(record.metadata["number"]) for record in rows]
        assert acknowledged <= set(numbers)
        assert len(numbers) == len(set(numbers))
        assert all(is_whole(record) for record in rows)
        again = await asyncio.gather(*(store.add("pets", row(number)) for number in range(start, max(numbers) + 1)))
        assert sum(again) == max(numbers) + 1 - start - len([number for number in numbers if number >= start])
        acknowledged |= set(range(start, max(numbers) + 1))
        await store.close()


def wait_for_lines(log: Path, count: int) -> None:
    deadline_s = time.monotonic() + 60
    while len(log.read_bytes().splitlines()) < count:
        assert time.monotonic() < deadline_s, "nothing was acknowledged"
        time.sleep(0.01)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this machine lets nobody mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_full_disk_is_said_and_what_was_there_stays(small_disk):
    store = open_store(small_disk)
    await store.create("pets", SETTINGS)
    acknowledged: set[int] = set()

    async def fill() -> None:
        for start in range(0, 100_000, 64):
            assert all(await asyncio.gather(*(store.add("pets", row(start + step)) for step in range(64))))
            acknowledged.update(range(start, start + 64))

    with pytest.raises(StorageFullError, match="is full; what was acknowledged is kept"):
        await fill()
    assert acknowledged
    table = await open_store(small_disk).open("pets")
    rows = await rows_of(table)
    assert acknowledged <= {int(record.metadata["number"]) for record in rows}
    assert all(is_whole(record) for record in rows)
    assert await table.find(embedding(1), top_k=3, where=Filter(), parts=EVERYTHING)
    await store.close()


async def test_rows_of_another_model_are_refused(store):
    with pytest.raises(LibraryStateError, match="clipsr-client library reembed pets"):
        await store.add("pets", row(1, model_digest=OTHER_DIGEST))
    assert await (await store.open("pets")).count() == 0


async def reembed(store: LibraryStore, embed, *, dim: int = 16) -> list[Progress]:
    work = Reembedding(store, "pets", model_digest=OTHER_DIGEST, embed_dim=dim, embed=embed, drops=False)
    return [progress async for progress in work.run()]


def embedded_anew(record: Record) -> Record:
    number = int(record.metadata["number"])
    return replace(record, embedding=embedding(number, dim=16), model_digest=OTHER_DIGEST)


async def test_embedding_anew_goes_on_after_a_fault_and_changes_all_at_once(store):
    table = await store.open("pets")
    await table.insert([row(number) for number in range(150)])
    asked: list[str] = []

    async def fail_late(record: Record) -> Record:
        asked.append(record.source)
        if len(asked) > 100:
            raise RuntimeError("gone")
        return embedded_anew(record)

    with pytest.raises(RuntimeError, match="gone"):
        await reembed(store, fail_late)
    assert (await table.settings()).model_digest == DIGEST
    assert all(is_whole(record) for record in await rows_of(table))

    async def count(record: Record) -> Record:
        asked.append(record.source)
        return embedded_anew(record)

    asked.clear()
    times = {record.sha256: record.add_time_us for record in await rows_of(table)}
    progress = await reembed(store, count)
    assert progress[0] == Progress(done=64, total=150, dropped=0)
    assert progress[-1] == Progress(done=150, total=150, dropped=0)
    assert len(asked) == 150 - 64
    settings = await table.settings()
    assert (settings.model_digest, settings.embed_dim) == (OTHER_DIGEST, 16)
    rows = await rows_of(table)
    assert {record.sha256: record.add_time_us for record in rows} == times
    assert await store.names() == ["pets"]
    assert await store.add("pets", embedded_anew(row(900)))
    assert not await store.add("pets", embedded_anew(row(5)))


async def test_what_others_do_while_the_rows_are_exchanged_is_kept(store, tmp_path, monkeypatch):
    """Another gateway, still at the old model, adds and deletes between the last look and the commit."""
    table = await store.open("pets")
    await table.insert([row(number) for number in range(10)])
    other = open_store(tmp_path / "libraries")
    overwrite = LibraryTable.overwrite

    async def late_overwrite(self, settings, batches) -> int:
        await other.add("pets", row(50))
        await (await other.open("pets")).delete(hashes=[row(3).sha256])
        return await overwrite(self, settings, batches)

    async def embed(record: Record) -> Record:
        return embedded_anew(record)

    monkeypatch.setattr(LibraryTable, "overwrite", late_overwrite)
    await reembed(store, embed)
    numbers = {int(record.metadata["number"]) for record in await rows_of(table)}
    assert numbers == {*range(10), 50} - {3}
    await other.close()


async def test_a_dropped_library_is_gone_for_everybody(store, tmp_path):
    other = open_store(tmp_path / "libraries")
    await other.add("pets", row(1))
    await store.drop("pets")
    with pytest.raises(NotInLibraryError, match="no library"):
        await other.add("pets", row(2))
    assert await other.names() == []
    await other.close()


async def test_there_are_only_so_many_libraries(store):
    for name in ("a", "b", "c"):
        await store.create(name, SETTINGS)
    with pytest.raises(LibraryStateError, match="drop one first"):
        await store.create("d", SETTINGS)


async def test_a_foreign_table_is_refused(store, tmp_path):
    import lancedb
    import pyarrow as pa

    connection = await lancedb.connect_async(str(tmp_path / "libraries"))
    await connection.create_table("foreign", schema=pa.schema([pa.field("x", pa.int32())]))
    with pytest.raises(LibraryStateError, match="schema is of version none"):
        await (await store.open("foreign")).settings()
