"""LibraryService over a real socket, with a real database on disk and a backend that tests control."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image
from tests.gateway.conftest import embedding_of

from clipsr.v1 import library_pb2, types_pb2

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
        yield library_pb2.AddImagesRequest(config=library_pb2.AddImagesConfig(library=library, **config))
        for image in images:
            yield library_pb2.AddImagesRequest(image=image)

    return {answer.index: answer async for answer in stub.AddImages(messages())}


async def list_all(stub: Any, **options: Any) -> list[library_pb2.StoredImage]:
    """Turns all pages."""
    images: list[library_pb2.StoredImage] = []
    token = ""
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
