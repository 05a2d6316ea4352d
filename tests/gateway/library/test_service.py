"""LibraryService over a real socket, with a real database on disk and a backend that tests control."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import lancedb
import numpy as np
import pyarrow as pa
import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from PIL import Image
from tests.gateway.conftest import EMBED_DIM, ask, embedding_of, take_apart

from clipsr.v1 import classifier_pb2, library_pb2, types_pb2
from clipsr_gateway import ImageRejectedError, Limits
from clipsr_gateway._library.store.records import Parts, content_hash
from clipsr_gateway._library.store.table import LibraryTable

# The first use of LanceDB in a process loads 180 MB.
pytestmark = pytest.mark.timeout(120)


def picture(number: int, *, side: int = 8, image_format: str = "PNG") -> bytes:
    """An image file that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format)
    return buffer.getvalue()


def new_image(index: int, content: bytes | None = None, **fields: Any) -> library_pb2.NewImage:
    content = picture(index) if content is None else content
    return library_pb2.NewImage(index=index, image=types_pb2.Image(content=content), **fields)


async def add(
    stub: Any, images: Sequence[library_pb2.NewImage], *, library: str = "pets", **config: Any
) -> dict[int, library_pb2.AddImagesResponse]:
    """Adds images over one call; answers by index."""

    async def messages() -> AsyncIterator[library_pb2.AddImagesRequest]:
        yield library_pb2.AddImagesRequest(options=library_pb2.AddImagesOptions(library=library, **config))
        for image in images:
            yield library_pb2.AddImagesRequest(image=image)

    return {answer.index: answer async for answer in stub.AddImages(messages())}


def search(text: str, *, templates: Sequence[str] = (), **options: Any) -> library_pb2.SearchByTextRequest:
    return library_pb2.SearchByTextRequest(
        library="pets", text=text, templates=templates, options=library_pb2.SearchOptions(**options)
    )


def take_apart_error(error: grpc.aio.AioRpcError) -> Any:
    return take_apart(status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"]))


async def failure(call: Any) -> Any:
    """The details of the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return take_apart_error(raised.value)


async def list_all(stub: Any, **options: Any) -> list[library_pb2.StoredImage]:
    """Turns all pages."""
    images: list[library_pb2.StoredImage] = []
    token = options.pop("page_token", "")
    while True:
        page = await stub.ListImages(library_pb2.ListImagesRequest(library="pets", page_token=token, **options))
        images += page.images
        token = page.next_page_token
        if not token:
            return images


@pytest.fixture
def library_uri(tmp_path) -> str:
    return str(tmp_path / "libraries")


@pytest_asyncio.fixture
async def stub(start: Callable[..., Any], library_uri: str) -> Any:
    """A LibraryService with an empty library "pets"."""
    running = await start(library_uri=library_uri)
    await running.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    return running.library


async def test_an_added_image_is_stored_with_all_that_belongs_to_it(stub):
    content = picture(1, side=12)
    answers = await add(
        stub, [new_image(7, content, source="cats/a.png", tags=["cat", "cat", "new"], metadata={"k": "v=w"})]
    )
    added = answers[7].added
    parts = library_pb2.ImageParts(thumbnail=True, original=True, embedding=True)
    image = (await stub.GetImage(library_pb2.GetImageRequest(library="pets", sha256=added.sha256, parts=parts))).image
    assert (image.source, list(image.tags), dict(image.metadata)) == ("cats/a.png", ["cat", "new"], {"k": "v=w"})
    assert (image.size.height, image.size.width, image.size_bytes) == (12, 12, len(content))
    assert (image.media_type, image.original, image.has_original) == ("image/png", content, True)
    assert image.route == types_pb2.ROUTE_UPSCALED
    np.testing.assert_array_equal(np.array(image.embedding, np.float32), embedding_of(content))
    with Image.open(io.BytesIO(image.thumbnail)) as thumbnail, Image.open(io.BytesIO(content)) as sent:
        assert thumbnail.format == "WEBP"
        assert thumbnail.convert("RGB").tobytes() == sent.tobytes()


async def test_the_same_bytes_are_one_image(stub, backend):
    content = picture(1)
    answers = await add(stub, [new_image(number, content) for number in range(5)])
    outcomes = sorted(answer.WhichOneof("outcome") for answer in answers.values())
    assert outcomes == ["added", *["already_present"] * 4]
    again = await add(stub, [new_image(0, content, source="elsewhere")])
    assert again[0].already_present.sha256 == next(a.added.sha256 for a in answers.values() if a.HasField("added"))
    assert len(backend.embed_calls) == 1
    assert [image.source for image in await list_all(stub)] == [""]


async def test_a_bad_image_fails_alone(stub, backend):
    broken = picture(3)
    backend.errors[broken] = ImageRejectedError("IMAGE_TRUNCATED", "It ends early.")
    images = [
        new_image(1),
        new_image(2, b"no image"),
        new_image(3, broken),
        new_image(4, tags=["x" * 200]),
        new_image(5, metadata={"a key": "v"}),
        new_image(6, source="s" * 5000),
        new_image(7, tags=[f"t{number}" for number in range(65)]),
    ]
    answers = await add(stub, images)
    reasons = {index: take_apart(answer.error).reason for index, answer in answers.items() if answer.HasField("error")}
    assert answers[1].HasField("added")
    assert reasons == {
        2: "IMAGE_UNRECOGNIZED",
        3: "IMAGE_TRUNCATED",
        4: "TAG_INVALID",
        5: "METADATA_KEY_INVALID",
        6: "SOURCE_TOO_LONG",
        7: "TOO_MANY_TAGS",
    }
    assert len(await list_all(stub)) == 1


async def test_a_file_that_only_thumbnails_trip_over_is_refused(stub):
    cut = picture(1, side=64, image_format="JPEG")[:-300]
    answers = await add(stub, [new_image(1, cut)])
    assert take_apart(answers[1].error).reason == "IMAGE_TRUNCATED"
    assert not await list_all(stub)


async def test_text_finds_what_fits_best(stub, backend):
    await add(stub, [new_image(number, source=f"{number}.png") for number in range(30)])
    response = await stub.SearchByText(search("a dog", top_k=5))
    query = embedding_of("a dog|a photo of a {}.")
    expected = sorted(((float(query @ embedding_of(picture(n))), f"{n}.png") for n in range(30)), reverse=True)[:5]
    assert [hit.image.source for hit in response.hits] == [source for _, source in expected]
    np.testing.assert_allclose([hit.cosine for hit in response.hits], [cosine for cosine, _ in expected], atol=1e-5)
    assert response.model_digest == "sha256:" + "ab" * 32
    assert response.search_ms > 0


async def test_a_text_is_embedded_once(stub, backend):
    await add(stub, [new_image(1)])
    before = len(backend.embed_calls)
    first = await stub.SearchByText(search("a dog"))
    second = await stub.SearchByText(search("a dog", filter=library_pb2.ImageFilter(source_prefix="x")))
    await stub.SearchByText(search("a dog", templates=["{}"]))
    assert len(backend.embed_calls) == before + 2
    assert first.timing.inference_ms > 0
    assert second.timing.inference_ms == 0


async def test_templates_of_a_search_are_checked_as_everywhere(stub):
    for request, reason, field in (
        (search(""), "TEXT_EMPTY", "text"),
        (search("dog", templates=["no place"]), "TEMPLATE_WITHOUT_PLACEHOLDER", "templates[0]"),
        (search("dog", templates=["@none"]), "TEMPLATE_SET_UNKNOWN", "templates[0]"),
        (search("dog", top_k=2000), "TOP_K_TOO_LARGE", "options.top_k"),
        (search("dog", min_cosine=1.5), "THRESHOLD_OUT_OF_RANGE", "options.min_cosine"),
        (search("dog", filter=library_pb2.ImageFilter(any_tags=[""])), "TAG_INVALID", "options.filter.any_tags[0]"),
    ):
        error = await failure(stub.SearchByText(request))
        assert (error.code, error.reason, error.fields) == (3, reason, [field])


async def test_an_image_finds_itself_and_its_like(stub):
    answers = await add(stub, [new_image(number) for number in range(10)])
    sha256 = answers[4].added.sha256
    by_hash = library_pb2.SearchByImageRequest(library="pets", sha256=sha256)
    by_bytes = library_pb2.SearchByImageRequest(library="pets", image=types_pb2.Image(content=picture(4)))
    for request in (by_hash, by_bytes):
        hits = (await stub.SearchByImage(request)).hits
        assert (hits[0].image.sha256, len(hits)) == (sha256, 10)
        assert hits[0].cosine == pytest.approx(1, abs=1e-6)
        request.exclude_query = True
        hits = (await stub.SearchByImage(request)).hits
        assert len(hits) == 9
        assert sha256 not in {hit.image.sha256 for hit in hits}
        request.options.min_cosine = 0.999
        assert not (await stub.SearchByImage(request)).hits


async def test_searches_by_image_say_what_is_wrong(stub):
    missing = library_pb2.SearchByImageRequest(library="pets", sha256="0" * 64)
    assert (await failure(stub.SearchByImage(missing))).reason == "IMAGE_NOT_FOUND"
    wrong = library_pb2.SearchByImageRequest(library="pets", sha256="X")
    assert (await failure(stub.SearchByImage(wrong))).reason == "HASH_INVALID"
    empty = library_pb2.SearchByImageRequest(library="pets")
    assert (await failure(stub.SearchByImage(empty))).reason == "QUERY_EMPTY"
    broken = library_pb2.SearchByImageRequest(library="pets", image=types_pb2.Image(content=b"no image"))
    error = await failure(stub.SearchByImage(broken))
    assert (error.reason, error.fields) == ("IMAGE_UNRECOGNIZED", ["image.content"])


async def test_filters_hold_in_lists_searches_and_deletions(stub):
    images = [
        new_image(n, source=f"dir'{n % 2}/{n}.png", tags=[f"t{n % 3}", "all"], metadata={"split": "ab"[n % 2]})
        for n in range(12)
    ]
    await add(stub, images)
    everything = await list_all(stub)
    later = Timestamp()
    later.CopyFrom(everything[6].add_time)
    numbers = {image.sha256: int(image.source.rpartition("/")[2].removesuffix(".png")) for image in everything}
    for where, expected in (
        (library_pb2.ImageFilter(all_tags=["t1", "all"]), {1, 4, 7, 10}),
        (library_pb2.ImageFilter(any_tags=["t1", "t2"]), {1, 2, 4, 5, 7, 8, 10, 11}),
        (library_pb2.ImageFilter(metadata={"split": "b"}, all_tags=["t0"]), {3, 9}),
        (library_pb2.ImageFilter(source_prefix="dir'1/"), {1, 3, 5, 7, 9, 11}),
        (library_pb2.ImageFilter(source_prefix="dir%"), set()),
        (library_pb2.ImageFilter(all_tags=["' OR true --"]), set()),
        (library_pb2.ImageFilter(added_from=later), {numbers[image.sha256] for image in everything[6:]}),
        (library_pb2.ImageFilter(added_before=later), {numbers[image.sha256] for image in everything[:6]}),
    ):
        listed = await list_all(stub, filter=where)
        assert {numbers[image.sha256] for image in listed} == expected
        hits = (await stub.SearchByText(search("x", top_k=100, filter=where))).hits
        assert {numbers[hit.image.sha256] for hit in hits} == expected
    where = library_pb2.ImageFilter(any_tags=["t0"])
    deleted = await stub.DeleteImages(library_pb2.DeleteImagesRequest(library="pets", filter=where))
    assert deleted.deleted_count == 4
    assert {numbers[image.sha256] % 3 for image in await list_all(stub)} == {1, 2}


async def test_pages_keep_their_place_while_images_come_and_go(stub):
    await add(stub, [new_image(n, source=str(n)) for n in range(10)])
    for newest_first in (False, True):
        before = [image.source for image in await list_all(stub, newest_first=newest_first)]
        first = await stub.ListImages(
            library_pb2.ListImagesRequest(library="pets", page_size=4, newest_first=newest_first)
        )
        await add(stub, [new_image(100 + newest_first, source="new")])
        gone = library_pb2.ImageHashes(sha256=[first.images[0].sha256])
        await stub.DeleteImages(library_pb2.DeleteImagesRequest(library="pets", hashes=gone))
        rest = await list_all(stub, newest_first=newest_first, page_size=3, page_token=first.next_page_token)
        seen = [image.source for image in [*first.images, *rest]]
        assert [source for source in seen if source != "new"] == [source for source in before if source != "new"]
        assert len(set(seen)) == len(seen) - (seen.count("new") > 1)
    error = await failure(stub.ListImages(library_pb2.ListImagesRequest(library="pets", page_token="1; DROP")))
    assert error.reason == "PAGE_TOKEN_INVALID"


async def test_a_page_whose_images_are_deleted_in_this_moment_has_a_next_one(stub, monkeypatch):
    await add(stub, [new_image(n) for n in range(4)])
    hashes = [image.sha256 for image in await list_all(stub)]
    fetch = LibraryTable.fetch

    async def late_fetch(self, wanted, parts=None):
        if hashes[0] in wanted:
            await self.delete(hashes=hashes[:2])
        return await fetch(self, wanted, parts)

    monkeypatch.setattr(LibraryTable, "fetch", late_fetch)
    assert [image.sha256 for image in await list_all(stub, page_size=2)] == hashes[2:]


async def test_a_page_ends_where_a_message_is_full(start, library_uri):
    running = await start(library_uri=library_uri, limits=Limits(max_message_bytes=64 * 1024))
    await running.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    await add(running.library, [new_image(n, picture(n, side=64)) for n in range(8)])
    parts = library_pb2.ImageParts(original=True)
    page = await running.library.ListImages(library_pb2.ListImagesRequest(library="pets", parts=parts))
    assert 0 < len(page.images) < 8
    assert page.total_count == 8
    assert len({image.sha256 for image in await list_all(running.library, parts=parts)}) == 8
    error = await failure(running.library.SearchByText(search("x", parts=parts)))
    assert error.reason == "RESPONSE_TOO_LARGE"
    hits = (await running.library.SearchByText(search("x", parts=parts, top_k=2))).hits
    assert [content_hash(hit.image.original) for hit in hits] == [hit.image.sha256 for hit in hits]
    assert len(hits) == 2


async def test_files_that_no_message_holds_are_not_read(start, library_uri, monkeypatch):
    running = await start(library_uri=library_uri, limits=Limits(max_message_bytes=64 * 1024))
    await running.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    await add(running.library, [new_image(n, picture(n, side=64)) for n in range(8)])
    read: list[Parts | None] = []
    fetch = LibraryTable.fetch

    async def noted_fetch(self, hashes, parts=None):
        read.append(parts)
        return await fetch(self, hashes, parts)

    monkeypatch.setattr(LibraryTable, "fetch", noted_fetch)
    parts = library_pb2.ImageParts(original=True)
    assert (await failure(running.library.SearchByText(search("x", parts=parts)))).reason == "RESPONSE_TOO_LARGE"
    assert read == []
    assert (await running.library.SearchByText(search("x", parts=parts, top_k=2))).hits
    assert read == [Parts(original=True)]  # the check can fail


async def test_deletions_are_by_name_or_by_a_real_filter(stub):
    answers = await add(stub, [new_image(n) for n in range(3)])
    hashes = library_pb2.ImageHashes(sha256=[answers[0].added.sha256, "0" * 64])
    assert (await stub.DeleteImages(library_pb2.DeleteImagesRequest(library="pets", hashes=hashes))).deleted_count == 1
    for request, reason in (
        (library_pb2.DeleteImagesRequest(library="pets"), "SELECTION_EMPTY"),
        (library_pb2.DeleteImagesRequest(library="pets", filter=library_pb2.ImageFilter()), "FILTER_EMPTY"),
        (
            library_pb2.DeleteImagesRequest(library="pets", hashes=library_pb2.ImageHashes(sha256=["' OR true"])),
            "HASH_INVALID",
        ),
    ):
        assert (await failure(stub.DeleteImages(request))).reason == reason
    assert len(await list_all(stub)) == 2
    again = await add(stub, [new_image(0)])
    assert again[0].HasField("added")


async def test_libraries_are_created_listed_and_dropped(stub):
    await stub.CreateLibrary(library_pb2.CreateLibraryRequest(name="cars-2", discard_originals=True))
    await add(stub, [new_image(1), new_image(2)])
    await add(stub, [new_image(1)], library="cars-2")
    listed = await stub.ListLibraries(library_pb2.ListLibrariesRequest())
    cars, pets = listed.libraries
    assert (cars.name, cars.image_count, cars.original_count, cars.keep_originals) == ("cars-2", 1, 0, False)
    assert (pets.name, pets.image_count, pets.original_count, pets.keep_originals) == ("pets", 2, 2, True)
    assert pets.embed_dim == EMBED_DIM
    assert pets.model_digest == listed.model_digest
    assert (pets.needs_reembedding, pets.is_indexed) == (False, False)
    assert pets.size_bytes > 0
    assert (await failure(stub.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets")))).reason == "LIBRARY_EXISTS"
    for name in ("", "Pets", "../etc", "a.b", "x" * 65, "-a"):
        error = await failure(stub.CreateLibrary(library_pb2.CreateLibraryRequest(name=name)))
        assert error.reason == "LIBRARY_NAME_INVALID"
    assert (await stub.DropLibrary(library_pb2.DropLibraryRequest(library="pets"))).image_count == 2
    assert (await failure(stub.SearchByText(search("x")))).reason == "LIBRARY_UNKNOWN"
    await stub.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    assert not await list_all(stub)


async def test_a_table_of_another_kind_does_not_hide_the_libraries(stub, library_uri):
    connection = await lancedb.connect_async(library_uri)
    await connection.create_table("foreign", schema=pa.schema([pa.field("x", pa.int32())]))
    listed = await stub.ListLibraries(library_pb2.ListLibrariesRequest())
    foreign, pets = listed.libraries
    assert (pets.name, pets.damage) == ("pets", "")
    assert foreign.name == "foreign"
    assert "cannot be used as a library" in foreign.damage
    error = await failure(stub.ListImages(library_pb2.ListImagesRequest(library="foreign")))
    assert error.reason == "LIBRARY_FORMAT_UNKNOWN"


async def test_streams_out_of_order_are_refused(stub):
    config = library_pb2.AddImagesRequest(options=library_pb2.AddImagesOptions(library="pets"))
    image = library_pb2.AddImagesRequest(image=new_image(1))
    for messages, reason in (
        ([], "OPTIONS_MISSING"),
        ([image], "OPTIONS_MISSING"),
        ([config, config], "OPTIONS_REPEATED"),
        ([config, library_pb2.AddImagesRequest()], "MESSAGE_EMPTY"),
        ([library_pb2.AddImagesRequest(options=library_pb2.AddImagesOptions(library="no"))], "LIBRARY_UNKNOWN"),
    ):
        call = await ask(stub.AddImages, messages)
        assert (await failure(call.read())).reason == reason


async def test_a_library_of_another_model_is_refused_with_the_cure(start, library_uri, repository, document, backend):
    old = await start(library_uri=library_uri)
    await old.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    images = [new_image(n, tags=[f"t{n}"], source=str(n)) for n in range(70)]
    answers = await add(old.library, images, route=types_pb2.ROUTE_NATIVE)
    listed = [image.sha256 for image in await list_all(old.library)]
    served = "sha256:" + "ef" * 32
    (repository / "manifest.json").write_text(json.dumps(document | {"digest": served}))
    new = await start(library_uri=library_uri)
    request = search("x")
    for call in (
        new.library.SearchByText(request),
        new.library.SearchByImage(library_pb2.SearchByImageRequest(library="pets", sha256=listed[0])),
        (await ask(new.library.AddImages, [library_pb2.AddImagesRequest(options={"library": "pets"})])).read(),
    ):
        error = await failure(call)
        assert (error.code, error.reason) == (9, "LIBRARY_OF_OTHER_MODEL")
        assert "`clipsr-client library reembed pets`" in error.message
    assert [image.sha256 for image in await list_all(new.library)] == listed
    (library,) = (await new.library.ListLibraries(library_pb2.ListLibrariesRequest())).libraries
    assert library.needs_reembedding

    backend.embed_calls.clear()
    backend.embed_answer = lambda row: -row
    call = new.library.ReembedLibrary(library_pb2.ReembedLibraryRequest(library="pets"))
    progress = [answer async for answer in call]
    assert (progress[0].done_count, progress[0].total_count) == (0, 70)
    assert (progress[-1].done_count, progress[-1].dropped_count) == (70, 0)
    assert not progress[-1].library.needs_reembedding
    assert {call["route"] for call in backend.embed_calls} == {"native"}
    parts = library_pb2.ImageParts(embedding=True, thumbnail=True, original=True)
    after = await list_all(new.library, parts=parts)
    assert [image.sha256 for image in after] == listed
    assert {image.model_digest for image in after} == {served}
    assert all(image.thumbnail and image.original and image.tags for image in after)
    content = {answer.added.sha256: picture(index) for index, answer in answers.items()}
    for image in after:
        np.testing.assert_allclose(image.embedding, -embedding_of(content[image.sha256]), atol=1e-6)
    assert (await add(new.library, [new_image(500)]))[500].HasField("added")
    assert (await failure(old.library.SearchByText(request))).reason == "LIBRARY_OF_OTHER_MODEL"


async def test_images_without_files_leave_only_when_told(start, library_uri, repository, document):
    old = await start(library_uri=library_uri)
    await old.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets", discard_originals=True))
    await add(old.library, [new_image(1)])
    (repository / "manifest.json").write_text(json.dumps(document | {"digest": "sha256:" + "ef" * 32}))
    new = await start(library_uri=library_uri)
    request = library_pb2.ReembedLibraryRequest(library="pets")
    error = await failure(new.library.ReembedLibrary(request).read())
    assert error.reason == "LIBRARY_ORIGINALS_MISSING"
    assert "--drop-without-original" in error.message
    request.drop_without_original = True
    progress = [answer async for answer in new.library.ReembedLibrary(request)]
    assert (progress[-1].done_count, progress[-1].dropped_count, progress[-1].library.image_count) == (0, 1, 0)
    again = [answer async for answer in new.library.ReembedLibrary(request)]
    assert len(again) == 1


async def test_a_gateway_without_libraries_says_how_to_have_some(start):
    running = await start()
    error = await failure(running.library.ListLibraries(library_pb2.ListLibrariesRequest()))
    assert (error.code, error.reason) == (12, "LIBRARIES_DISABLED")
    assert "--library-uri" in error.message
    assert (await failure(running.library.AddImages().read())).reason == "LIBRARIES_DISABLED"
    info = await running.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())
    assert not info.model_info.limits.HasField("library")


async def test_limits_are_published(start, library_uri):
    running = await start(library_uri=library_uri)
    info = await running.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())
    assert info.model_info.limits.library.max_top_k == 1000


async def test_the_server_drains_with_what_was_read_written(start, library_uri):
    running = await start(library_uri=library_uri)
    await running.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))

    config = library_pb2.AddImagesRequest(options=library_pb2.AddImagesOptions(library="pets"))
    images = [library_pb2.AddImagesRequest(image=new_image(number)) for number in range(100)]
    call = await ask(running.library.AddImages, [config, *images])
    answers = [await call.read() for _ in range(3)]
    stopping = asyncio.create_task(running.gateway.stop())

    async def read_on() -> None:
        while (answer := await call.read()) is not grpc.aio.EOF:
            answers.append(answer)

    assert (await failure(read_on())).reason == "SHUTTING_DOWN"
    await stopping
    assert all(answer.HasField("added") for answer in answers)
    again = await start(library_uri=library_uri)
    assert {image.sha256 for image in await list_all(again.library)} >= {answer.added.sha256 for answer in answers}


async def test_a_query_that_is_cut_is_warned_of_also_when_it_is_remembered(start, library_uri):
    running = await start(library_uri=library_uri)
    await running.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    for _ in range(2):
        [warning] = (await running.library.SearchByText(search("a dog " * 50))).warnings
        assert (warning.reason, warning.field) == ("TEXT_CUT", "text")


async def test_an_unknown_script_is_warned_of(start, library_uri, repository):
    (repository / "text_encoder").mkdir()
    tokenizer = {"model": {"vocab": {"dog</w>": 0, "Ã©e</w>": 1, "æĹ¥</w>": 2}, "end_of_word_suffix": "</w>"}}
    tokenizer["pre_tokenizer"] = {"type": "ByteLevel"}
    (repository / "text_encoder" / "tokenizer.json").write_text(json.dumps(tokenizer))
    running = await start(library_uri=library_uri)
    await running.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    reasons = {}
    for text in ("a dog", "一只狗", "日", "née", "собака"):
        response = await running.library.SearchByText(search(text))
        reasons[text] = [warning.reason for warning in response.warnings]
    unknown = ["QUERY_WITHOUT_KNOWN_TOKEN"]
    assert reasons == {"a dog": [], "一只狗": unknown, "日": [], "née": [], "собака": unknown}


def test_a_gateway_without_the_extra_starts_unless_libraries_are_wanted(tmp_path, repository):
    """LanceDB is large, and most gateways keep no libraries."""
    (tmp_path / "lancedb.py").write_text("raise ModuleNotFoundError('no lancedb', name='lancedb')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = "import asyncio, sys, clipsr_gateway as g, pathlib\n"
    program += "async def run(uri):\n"
    program += "    config = g.GatewayConfig(repository=pathlib.Path(sys.argv[1]), library_uri=uri)\n"
    program += "    g.Gateway(config, manifest=g.load_manifest(config.repository), backend=None)\n"
    program += "asyncio.run(run(None))\nprint('starts')\nasyncio.run(run('libraries'))\n"
    done = subprocess.run(
        [sys.executable, "-c", program, repository], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "starts\n", done.stderr
    assert "ConfigurationError: --library-uri needs lancedb; install it with" in done.stderr
    assert "clipsr-gateway[library]" in done.stderr


async def test_a_drain_ends_embedding_anew_and_the_next_call_goes_on(
    start, library_uri, repository, document, backend, until
):
    old = await start(library_uri=library_uri)
    await old.library.CreateLibrary(library_pb2.CreateLibraryRequest(name="pets"))
    await add(old.library, [new_image(n) for n in range(130)])
    (repository / "manifest.json").write_text(json.dumps(document | {"digest": "sha256:" + "ef" * 32}))
    new = await start(library_uri=library_uri, grace_s=60.0)
    backend.hold = asyncio.Event()
    before = len(backend.embed_calls)
    request = library_pb2.ReembedLibraryRequest(library="pets")
    call = new.library.ReembedLibrary(request)
    await call.read()
    await until(lambda: len(backend.embed_calls) > before)
    stopping = asyncio.create_task(new.gateway.stop())
    await until(lambda: new.gateway.operations.runner.draining.is_set())
    backend.hold.set()
    backend.hold = None
    assert (await failure(call.read())).reason == "SHUTTING_DOWN"
    await stopping
    again = await start(library_uri=library_uri)
    progress = [answer async for answer in again.library.ReembedLibrary(request)]
    assert progress[0].done_count == 64
    assert progress[-1].library.image_count == 130
