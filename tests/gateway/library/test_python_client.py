"""The Python client and the command line against the LibraryService of this gateway, with a database on disk."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.gateway.conftest import embedding_of

from clipsr import (
    AddedImage,
    AlreadyExistsError,
    AsyncClient,
    FailedImage,
    ImageFilter,
    InvalidRequestError,
    ModelMismatchError,
    NewImage,
    NotFoundError,
    PresentImage,
    ServiceError,
)
from clipsr.cli import main

# The first use of LanceDB in a process loads 180 MB.
pytestmark = pytest.mark.timeout(120)

OTHER_DIGEST = "sha256:" + "cd" * 32


def picture(number: int) -> bytes:
    """An image file that no other number gives."""
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images in two folders."""
    for number in range(6):
        path = tmp_path / "photos" / ("even" if number % 2 == 0 else "odd") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return tmp_path / "photos"


async def test_the_client_from_creation_to_removal(start, tmp_path, folder):
    one = await start(library_uri=str(tmp_path / "libraries"))
    async with AsyncClient(f"127.0.0.1:{one.port}") as client:
        library = client.library("photos")
        created = await library.create(thumbnail_side_px=64)
        assert (created.name, created.thumbnail_side_px, created.keep_originals) == ("photos", 64, True)
        with pytest.raises(AlreadyExistsError):
            await library.create()
        paths = sorted(folder.rglob("*.png"))
        images = [NewImage(content=path, source=path.name, tags=[path.parent.name]) for path in paths]
        images += [NewImage(content=b"no image"), NewImage(content=paths[0]), NewImage(content=paths[1], tags=[""])]
        outcomes = {index: outcome async for index, outcome in library.add(images)}
        assert [type(outcomes[index]) for index in range(6)] == [AddedImage] * 6
        assert [type(outcomes[index]) for index in (6, 7, 8)] == [FailedImage, PresentImage, FailedImage]
        found = await library.search_image(paths[3], return_embedding=True, return_thumbnail=True, is_exact=True)
        assert found.hits[0].image.source == paths[3].name
        assert found.hits[0].cosine == pytest.approx(1, abs=1e-5)
        assert found.hits[0].image.embedding == pytest.approx(embedding_of(paths[3].read_bytes()), abs=1e-6)
        odd = await library.search_text("cat", where=ImageFilter(all_tags=["odd"]))
        assert sorted(hit.image.source for hit in odd.hits) == ["1.png", "3.png", "5.png"]
        assert [image.source async for image in library.list_images(page_size=2)] == [
            image.source for image in (await library.list_page()).images
        ]
        name = hashlib.sha256(paths[0].read_bytes()).hexdigest()
        assert (await library.get_image(name, return_original=True)).original == paths[0].read_bytes()
        assert await library.delete_images([name, "00" * 32]) == 1
        with pytest.raises(NotFoundError):
            await library.get_image(name)
        with pytest.raises(InvalidRequestError):
            await library.delete_images(where=ImageFilter())
        assert (await library.info()).image_count == 5
        assert await library.drop() == 5
        with pytest.raises(NotFoundError, match="library create photos"):
            await library.search_text("cat")


async def test_another_model_and_the_cure(start, tmp_path, repository, document, folder):
    uri = str(tmp_path / "libraries")
    one = await start(library_uri=uri)
    async with AsyncClient(f"127.0.0.1:{one.port}") as client:
        library = client.library("photos")
        await library.create()
        async for _ in library.add(folder.rglob("*.png")):
            pass
    await one.gateway.stop()
    (repository / "manifest.json").write_text(json.dumps(document | {"digest": OTHER_DIGEST}), encoding="utf-8")
    two = await start(library_uri=uri)
    async with AsyncClient(f"127.0.0.1:{two.port}") as client:
        library = client.library("photos")
        assert (await library.info()).needs_reembedding
        with pytest.raises(ModelMismatchError, match="clipsr-client library reembed photos"):
            await library.search_text("cat")
        with pytest.raises(ModelMismatchError, match="clipsr-client library reembed photos"):
            async for _ in library.add([picture(9)]):
                pass
        *_, last = [progress async for progress in library.reembed()]
        assert (last.done_count, last.total_count, last.library.model_digest) == (6, 6, OTHER_DIGEST)
        assert len((await library.search_text("cat")).hits) == 6


async def test_a_gateway_without_libraries(start):
    one = await start()
    async with AsyncClient(f"127.0.0.1:{one.port}") as client:
        with pytest.raises(ServiceError, match="--library-uri") as caught:
            await client.list_libraries()
    assert caught.value.reason == "LIBRARIES_DISABLED"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command in a thread; gives exit code, standard output and standard error."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(main, ["library", *arguments])
        return (code, *capsys.readouterr())

    return run


async def test_the_command_line(start, tmp_path, folder, run, monkeypatch):
    one = await start(library_uri=str(tmp_path / "libraries"))
    monkeypatch.setenv("CLIPSR_URL", f"127.0.0.1:{one.port}")
    assert (await run("add", str(folder)))[0] == 2
    assert (await run("create"))[0] == 0
    code, out, _ = await run("add", str(folder), "--tag", "zoo", "--meta", "side=left")
    assert (code, out) == (0, "6 images: 6 added; library default\n")
    assert (await run("add", str(folder)))[1] == "6 images: 0 added, 6 there already; library default\n"
    code, out, _ = await run("search", "--image", str(folder / "odd" / "3.png"), "--json", "--tag", "zoo")
    best, *others = [json.loads(line) for line in out.splitlines()]
    assert (best["source"], best["rank"], best["metadata"]) == (str(folder / "odd" / "3.png"), 1, {"side": "left"})
    assert len(others) == 5
    assert (await run("search", "cat", "--html", str(tmp_path / "found.html")))[0] == 0
    assert (tmp_path / "found.html").read_text("utf-8").count("data:image/webp") == 6
    assert len((await run("list", "default", "--limit", "4"))[1].splitlines()) == 5
    assert "files       kept" in (await run("show"))[1]
    assert (await run("export", str(tmp_path / "out")))[0] == 0
    written = {path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert written == {picture(number) for number in range(6)}
    assert (await run("delete", best["sha256"]))[1] == "1 images deleted; library default\n"
    code, _, said = await run("search", "cat", "--library", "nobody")
    assert (code, said.count("\n")) == (2, 1), said
    assert (await run("drop", "default", "--yes"))[1] == "library default is removed, with 5 images\n"
