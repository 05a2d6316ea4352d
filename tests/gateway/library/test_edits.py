"""What was said of images changes afterwards: in the store, and over the wire."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.gateway.library.test_service import add, failure, list_all, new_image
from tests.gateway.library.test_store import (
    EVERYTHING,
    embedded_anew,
    reembed,
    rows_of,
)
from tests.gateway.library_rows import SETTINGS, embedding, is_whole, row

from clipsr.v1 import library_pb2
from clipsr_gateway._library.store.edits import Changes
from clipsr_gateway._library.store.maintenance import MaintenanceConfig
from clipsr_gateway._library.store.records import Filter, Parts
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_gateway._library.store.table import LibraryTable

# Each use of LanceDB in a new process loads 180 MB.
pytestmark = pytest.mark.timeout(180)


def open_store(uri: Path) -> LibraryStore:
    return LibraryStore(str(uri), max_libraries=4, maintenance=MaintenanceConfig(scalar_index_rows=16))


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[LibraryStore]:
    """A store with 20 rows in the library "pets", whose hashes and tags are indexed."""
    opened = open_store(tmp_path / "libraries")
    await opened.create("pets", SETTINGS)
    table = await opened.open("pets")
    await table.insert([row(number) for number in range(20)])
    await opened._maintenance.tidy(table)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def stub(start: Any, tmp_path: Path) -> Any:
    """A LibraryService with an empty library "pets"."""
    running = await start(library_uri=str(tmp_path / "libraries"))
    await running.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    return running.library


def update(hashes: list[str] | None = None, *, where: library_pb2.ImageFilter | None = None, **changes: Any) -> Any:
    selection: dict[str, Any] = {"filter": where} if hashes is None else {}
    if hashes:
        selection = {"hashes": library_pb2.ImageHashes(sha256=hashes)}
    return library_pb2.UpdateImagesRequest(library="pets", changes=library_pb2.ImageChanges(**changes), **selection)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (Changes(), {}),
        (Changes(source=""), {"source": ""}),
        (Changes(add_tags=["b", "t1", "b"]), {"tags": ("t1", "b")}),
        (Changes(remove_tags=["t1", "none"], add_tags=["x"]), {"tags": ("x",)}),
        (Changes(clears_tags=True), {"tags": ()}),
        (Changes(set_metadata={"number": "2", "k": "v=w"}), {"metadata": {"number": "2", "k": "v=w"}}),
        (Changes(remove_metadata=["number", "none"]), {"metadata": {}}),
        (Changes(clears_metadata=True, set_metadata={"k": ""}), {"metadata": {"k": ""}}),
    ],
)
def test_changes_applied_twice_are_those_applied_once(changes, expected):
    changed = changes.apply(row(1))
    assert changed == replace(row(1), embedding=changed.embedding, **expected)
    assert changes.apply(changed) == changed


async def test_an_edit_keeps_the_large_columns_and_is_found_by_indexes(store):
    table = await store.open("pets")
    hashes = [row(number).sha256 for number in (1, 2)]
    done = await store.edit("pets", Changes(add_tags=["new"]).apply, hashes=[*hashes, "0" * 64])
    assert done.matched == done.changed == set(hashes)
    edited = await table.fetch(hashes, EVERYTHING)
    assert [record.tags for record in edited] == [("t1", "new"), ("t2", "new")]
    assert all(is_whole(record) for record in await rows_of(table))
    for _ in range(2):  # with the index behind, and brought up to date
        assert await table.count(Filter(all_tags=("new",))) == 2
        assert await table.count(Filter(all_tags=("t1",))) == 2  # 1 and 11
        found = await table.find(embedding(2), top_k=5, where=Filter(all_tags=("new",)), parts=Parts())
        assert [each.record.source for each in found] == ["2.png", "1.png"]
        assert await table.count() == len(set(await table.hashes())) == 20
        await store._maintenance.tidy(table)


async def test_an_edit_of_nothing_leaves_no_version(store):
    table = await store.open("pets")
    version = await table.version()
    for where in (Filter(all_tags=("none",)), Filter(all_tags=("t1",))):
        done = await store.edit("pets", Changes(add_tags=["t1"]).apply, where=where)
        assert not done.changed
    assert not await table.delete(hashes=["0" * 64])
    assert await table.version() == version


async def test_writers_that_meet_lose_nothing(store, tmp_path):
    others = [store, *(open_store(tmp_path / "libraries") for _ in range(2))]

    async def tag(one: LibraryStore, word: str) -> None:
        await one.edit("pets", Changes(add_tags=[word]).apply, where=Filter())

    words = [f"w{number}" for number in range(9)]
    await asyncio.gather(*(tag(others[place % 3], word) for place, word in enumerate(words)))
    for record in await rows_of(await store.open("pets")):
        assert set(words) < set(record.tags)
    await asyncio.gather(*(one.close() for one in others[1:]))


async def test_what_was_deleted_between_reading_and_writing_stays_deleted(store, tmp_path):
    other = open_store(tmp_path / "libraries")
    table = await store.open("pets")
    loop = asyncio.get_running_loop()
    read: list[str] = []

    def delete_while_it_is_changed(record):
        if not read:
            theirs = asyncio.run_coroutine_threadsafe(other.open("pets"), loop).result()
            asyncio.run_coroutine_threadsafe(theirs.delete(hashes=[row(3).sha256]), loop).result()
        read.append(record.source)
        return replace(record, source="changed")

    done = await store.edit("pets", delete_while_it_is_changed, hashes=[row(3).sha256, row(4).sha256])
    assert done.matched == {row(4).sha256}
    assert read[-1] == "4.png"
    assert await table.fetch([row(3).sha256]) == []
    await other.close()


async def test_edits_while_a_library_is_embedded_anew_are_kept(store, tmp_path, monkeypatch):
    """One after its row was embedded, one between the last look and the commit."""
    other = open_store(tmp_path / "libraries")
    overwrite = LibraryTable.overwrite
    edited: list[str] = []

    async def late_overwrite(self, settings, batches) -> int:
        await other.edit("pets", Changes(add_tags=["late"], source="late").apply, hashes=[row(2).sha256])
        return await overwrite(self, settings, batches)

    async def embed(record):
        if not edited:
            edited.append(record.sha256)
            await other.edit("pets", Changes(add_tags=["early"]).apply, hashes=[record.sha256])
        return embedded_anew(record)

    monkeypatch.setattr(LibraryTable, "overwrite", late_overwrite)
    await reembed(store, embed)
    table = await store.open("pets")
    (early,), (late,) = await table.fetch(edited), await table.fetch([row(2).sha256])
    assert early.tags[-1] == "early"
    assert (late.tags, late.source, late.metadata) == (("t2", "late"), "late", {"number": "2"})
    assert await table.count() == 20
    await other.close()


async def test_images_are_updated_by_name_or_filter(stub):
    answers = await add(stub, [new_image(n, source=f"{n}.png", tags=["old"]) for n in range(3)])
    hashes = [answers[n].added.sha256 for n in range(3)]
    done = await stub.UpdateImages(update([hashes[0], "0" * 64], add_tags=["café"], source="moved"))
    assert (done.matched_count, done.changed_count) == (1, 1)
    done = await stub.UpdateImages(update([hashes[0]], add_tags=["cafe\u0301"], source="moved"))  # as macOS writes it
    assert (done.matched_count, done.changed_count) == (1, 0)
    everything = library_pb2.ImageFilter()
    done = await stub.UpdateImages(update(where=everything, remove_tags=["old"], set_metadata={"k": "v"}))
    assert (done.matched_count, done.changed_count) == (3, 3)
    images = {image.sha256: image for image in await list_all(stub)}
    assert [list(images[sha256].tags) for sha256 in hashes] == [["café"], [], []]
    assert [images[sha256].source for sha256 in hashes] == ["moved", "1.png", "2.png"]
    assert all(dict(image.metadata) == {"k": "v"} for image in images.values())


@pytest.mark.parametrize("form", ["NFC", "NFD"])
async def test_texts_are_found_in_any_unicode_form(stub, form):
    """File names of macOS have é as two characters, most keyboards type one."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    said = [(composed, apart), (apart, composed)]
    await add(stub, [new_image(n, source=f"{a}/{n}.png", tags=[b], metadata={"k": b}) for n, (a, b) in enumerate(said)])
    images = await list_all(stub)
    assert {image.source for image in images} == {f"{composed}/0.png", f"{apart}/1.png"}  # as given: they name files
    hashes = sorted(image.sha256 for image in images)
    text = unicodedata.normalize(form, composed)
    filters = ({"all_tags": [text]}, {"any_tags": [text]}, {"metadata": {"k": text}}, {"source_prefix": f"{text}/"})
    for where in filters:
        found = await list_all(stub, filter=library_pb2.ImageFilter(**where))
        assert sorted(image.sha256 for image in found) == hashes, where
    done = await stub.UpdateImages(update(hashes, set_metadata={"k": text}))
    assert (done.matched_count, done.changed_count) == (2, 0)


async def test_wrong_updates_change_nothing(stub):
    full = [f"t{n}" for n in range(64)]
    answers = await add(stub, [new_image(0, tags=full), new_image(1)])
    hashes = [answers[0].added.sha256, answers[1].added.sha256]
    for request, reason in (
        (update(add_tags=["x"]), "SELECTION_EMPTY"),
        (update(hashes), "CHANGES_EMPTY"),
        (update(["' OR true"], add_tags=["x"]), "HASH_INVALID"),
        (update(hashes, add_tags=[" "]), "TAG_INVALID"),
        (update(hashes, set_metadata={"a b": "x"}), "METADATA_KEY_INVALID"),
        (update(hashes, source="x" * 5000), "SOURCE_TOO_LONG"),
        (update(hashes, add_tags=["one too many"]), "TOO_MANY_TAGS"),
    ):
        assert (await failure(stub.UpdateImages(request))).reason == reason
    assert [list(image.tags) for image in await list_all(stub)] == [full, []]
    done = await stub.UpdateImages(update(hashes, remove_tags=full[:1], add_tags=["instead"]))
    assert done.changed_count == 2


async def test_adding_again_says_what_differs_or_takes_it(stub, backend):
    said = {"source": "moved.png", "tags": ["second"], "metadata": {"k": "v"}}
    await add(stub, [new_image(0, source="a.png", tags=["first"])])
    (same,) = (await add(stub, [new_image(0)])).values()
    assert not same.already_present.differs
    (kept,) = (await add(stub, [new_image(0, **said)])).values()
    assert kept.already_present.differs
    assert [list(image.tags) for image in await list_all(stub)] == [["first"]]
    (taken,) = (await add(stub, [new_image(0, **said)], update_present=True)).values()
    assert taken.already_present.updated
    assert not taken.already_present.differs
    (again,) = (await add(stub, [new_image(0, **said)], update_present=True)).values()
    assert not again.already_present.updated
    (image,) = await list_all(stub)
    assert (image.source, list(image.tags), dict(image.metadata)) == ("moved.png", ["first", "second"], {"k": "v"})
    full = [f"t{n}" for n in range(64)]
    mixed = await add(stub, [new_image(0, tags=full), new_image(1, tags=full)], update_present=True)
    assert mixed[0].error.code == 3  # INVALID_ARGUMENT; its neighbour is added
    assert mixed[1].HasField("added")
    assert len(backend.embed_calls) == 2


async def test_an_image_that_is_deleted_while_it_is_added_again_is_added(stub, monkeypatch):
    answers = await add(stub, [new_image(0, tags=["first"])])
    original = LibraryStore.update

    async def late(self, name, sha256, changes) -> bool:
        await (await self.open(name)).delete(hashes=[sha256])
        return await original(self, name, sha256, changes)

    monkeypatch.setattr(LibraryStore, "update", late)
    again = await add(stub, [new_image(0, tags=["second"])], update_present=True)
    assert again[0].added.sha256 == answers[0].added.sha256
    assert [list(image.tags) for image in await list_all(stub)] == [["second"]]
