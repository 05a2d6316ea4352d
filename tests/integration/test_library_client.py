"""Image libraries through the command line and both Python clients, against the running service."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsr import AddedImage, AsyncClient, FailedImage, ImageFilter, Library, NewImage, NotFoundError, PresentImage
from tests.waiting import wait_until

IMAGES = 300


@pytest.fixture(scope="module")
def samples(repo_root) -> list[Path]:
    return sorted((repo_root / "samples").glob("*.[jp][pn]g"))


@pytest.fixture
def library(client, request) -> Iterator[Library]:
    """An empty library of the test's own, removed at its end."""
    library = client.library(f"test-{abs(hash(request.node.name))}")
    library.create()
    yield library
    library.drop()


@pytest.fixture
def noise(tmp_path) -> Path:
    """A folder with many small images, no two alike."""
    random = np.random.default_rng(7)
    folder = tmp_path / "noise"
    folder.mkdir()
    for index in range(IMAGES):
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{index:03}.png")
    return folder


def test_words_and_examples_find_the_samples(client, library, samples):
    outcomes = dict(library.add(NewImage(content=path, source=path.name, tags=[path.stem[:1]]) for path in samples))
    assert all(isinstance(outcome, AddedImage) for outcome in outcomes.values())
    assert library.search_text("a photo of a cat", top_k=1).hits[0].image.source.startswith("cat")
    [same, *others] = library.search_image(samples[0], return_embedding=True, top_k=50).hits
    assert same.image.source == samples[0].name
    assert same.cosine == pytest.approx(1, abs=1e-3)
    [embedded] = client.embed_images([samples[0]])
    assert sum(a * b for a, b in zip(same.image.embedding, embedded.values, strict=True)) == pytest.approx(1, abs=1e-3)
    without = library.search_image(sha256=same.image.sha256, exclude_query=True, top_k=50, is_exact=True)
    assert [hit.image.sha256 for hit in without.hits] == [hit.image.sha256 for hit in others]
    only = library.search_text("a cat", where=ImageFilter(all_tags=["b"])).hits
    assert {hit.image.source[:1] for hit in only} == {"b"}


def test_what_went_in_comes_out(library, samples):
    list(library.add([NewImage(content=samples[0], source="猫", tags=["x", "y"], metadata={"side": "left"})]))
    [image] = library.list_images(return_thumbnail=True, return_original=True)
    assert (image.source, image.tags, image.metadata) == ("猫", ("x", "y"), {"side": "left"})
    assert image.original == samples[0].read_bytes()
    assert image.thumbnail[8:12] == b"WEBP"
    assert library.get_image(image.sha256).thumbnail is None
    assert [type(outcome) for _, outcome in library.add([samples[0]])] == [PresentImage]
    assert library.delete_images([image.sha256]) == 1
    with pytest.raises(NotFoundError):
        library.get_image(image.sha256)


def test_the_asynchronous_twin_says_the_same(service, library, samples):
    list(library.add(samples))

    async def run() -> tuple[list[str], list[str]]:
        async with AsyncClient(service.url, timeout_s=60) as client:
            twin = client.library(library.name)
            kinds = {type(outcome) async for _, outcome in twin.add(samples)}
            assert kinds == {PresentImage}
            found = await twin.search_text("a dog")
            return [hit.image.sha256 for hit in found.hits], [
                each.sha256 async for each in twin.list_images(page_size=2)
            ]

    found, listed = asyncio.run(run())
    assert found == [hit.image.sha256 for hit in library.search_text("a dog").hits]
    assert listed == [image.sha256 for image in library.list_images()]


def test_one_bad_image_fails_alone(library, samples):
    outcomes = dict(library.add([samples[0], b"no image", NewImage(content=samples[1], tags=[""]), samples[2]]))
    assert [type(outcomes[index]) for index in range(4)] == [AddedImage, FailedImage, FailedImage, AddedImage]
    assert outcomes[1].reason == "IMAGE_UNRECOGNIZED"
    assert library.info().image_count == 2


def test_the_command_line_from_end_to_end(service, library, samples, tmp_path):
    where = ("--library", library.name)
    added = service.cli("library", "add", samples[0].parent, *where, "--tag", "sample", "--meta", "from=test")
    assert added.returncode == 0, added.stderr
    assert f"{len(samples)} added; library {library.name}" in added.stdout
    found = service.cli("library", "search", "a photo of a cat", *where, "--json", "--top-k", "3")
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert Path(hits[0]["source"]).name.startswith("cat")
    assert hits[0]["metadata"] == {"from": "test"}
    sheet = tmp_path / "found.html"
    found = service.cli("library", "search", "--image", samples[0], *where, "--html", sheet, "--top-k", "50")
    assert found.returncode == 0
    assert sheet.read_text("utf-8").count("data:image/webp;base64,") == len(samples)
    assert service.cli("library", "export", tmp_path / "out", *where).returncode == 0
    with (tmp_path / "out" / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted((tmp_path / "out" / row["file"]).read_bytes() for row in rows) == sorted(
        path.read_bytes() for path in samples
    )
    listed = service.cli("library", "list", library.name, "--csv").stdout.splitlines()
    assert len(listed) == len(samples) + 1
    deleted = service.cli("library", "delete", hits[0]["sha256"], *where)
    assert deleted.stdout == f"1 images deleted; library {library.name}\n"
    refused = service.cli("library", "search", "cat", "--library", "nobody")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_a_query_that_the_model_does_not_know(service, library, samples):
    list(library.add(samples[:1]))
    found = service.cli("library", "search", "草地上的狗", "--library", library.name, "--json")
    assert found.returncode == 0
    assert len(found.stdout.splitlines()) == 1
    assert found.stderr.startswith("clipsr-client: ")
    assert library.search_text("草地上的狗").warnings[0].reason == "QUERY_WITHOUT_KNOWN_TOKEN"
    (warning,) = library.search_text("a dog on grass").warnings
    assert warning.reason == "QUERY_NOT_TAUGHT"
    assert 'never taught "grass",' in warning.message
    assert library.search_text("a dog on a road").warnings == ()


def test_killed_while_adding_the_same_command_adds_the_rest(service, library, noise):
    command = [service.bin / "clipsr-client", "library", "add", noise, "--library", library.name, "--url", service.url]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: library.info().image_count > 0 or process.poll() is not None, 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = service.cli("library", "add", noise, "--library", library.name)
    assert done.returncode == 0, done.stderr
    assert f"{IMAGES} images: " in done.stdout
    assert library.info().image_count == IMAGES
