"""Image libraries through real Triton: what is added is found by words and by example, and by nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from clipsr import AddedImage, Client
from clipsr.v1 import library_pb2, library_pb2_grpc, types_pb2


@pytest.fixture(scope="module")
def samples(repo_root: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted((repo_root / "samples").glob("*.png"))}


@pytest.fixture
def stub(service) -> Iterator[library_pb2_grpc.LibraryServiceStub]:
    with grpc.insecure_channel(service.url) as channel:
        yield library_pb2_grpc.LibraryServiceStub(channel)


@pytest.fixture
def library(stub, samples) -> Iterator[str]:
    """A library with all samples, tagged with their names' first words."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    stub.CreateLibrary(library_pb2.CreateLibraryRequest(name=name))

    def messages() -> Iterator[library_pb2.AddImagesRequest]:
        yield library_pb2.AddImagesRequest(options=library_pb2.AddImagesOptions(library=name))
        for index, (stem, content) in enumerate(samples.items()):
            image = types_pb2.Image(content=content)
            tags = [stem.partition("-")[0]]
            yield library_pb2.AddImagesRequest(
                image=library_pb2.NewImage(index=index, image=image, source=f"{stem}.png", tags=tags)
            )

    answers = list(stub.AddImages(messages(), timeout=120))
    assert sorted(answer.index for answer in answers) == list(range(len(samples)))
    assert all(answer.HasField("added") for answer in answers)
    yield name
    dropped = stub.DropLibrary(library_pb2.DropLibraryRequest(library=name))
    assert dropped.image_count == len(samples)


def test_words_find_what_the_image_shows(stub, library):
    for word in ("airplane", "automobile", "cat", "horse"):
        response = stub.SearchByText(library_pb2.SearchByTextRequest(library=library, text=word), timeout=60)
        cosines = [hit.cosine for hit in response.hits]
        assert word in response.hits[0].image.tags, [hit.image.source for hit in response.hits]
        assert cosines == sorted(cosines, reverse=True)
        assert not response.warnings


def test_cosines_are_those_of_the_embedding_service(stub, library, service, samples):
    options = library_pb2.SearchOptions(top_k=100)
    request = library_pb2.SearchByTextRequest(library=library, text="a cat", templates=["{}"], options=options)
    hits = stub.SearchByText(request, timeout=60).hits
    with Client(service.url, timeout_s=60) as client:
        (text,) = client.embed_texts(["a cat"])
        embeddings = dict(zip(samples, client.embed_images(list(samples.values())), strict=True))
    for hit in hits:
        values = embeddings[hit.image.source.removesuffix(".png")].values
        assert hit.cosine == pytest.approx(float(np.dot(values, text.values)), abs=2e-3)


def test_an_example_finds_its_like(stub, library, samples):
    request = library_pb2.SearchByImageRequest(
        library=library, image=types_pb2.Image(content=samples["horse"]), exclude_query=True
    )
    hits = stub.SearchByImage(request, timeout=60).hits
    assert "horse" in hits[0].image.tags, [hit.image.source for hit in hits]
    assert len(hits) == len(samples) - 1 or len(hits) == 10


def test_chinese_is_warned_of_where_the_model_knows_english_only(stub, library):
    response = stub.SearchByText(library_pb2.SearchByTextRequest(library=library, text="一只狗"), timeout=60)
    assert [warning.reason for warning in response.warnings] == ["QUERY_WITHOUT_KNOWN_TOKEN"]
    assert response.hits


def test_the_python_client_adds_to_the_same_library(service, samples):
    with Client(service.url, timeout_s=60) as client:
        library = client.library(f"test-{uuid.uuid4().hex[:8]}")
        library.create()
        outcomes = dict(library.add([samples["cat"], samples["bus"]]))
        assert all(isinstance(outcome, AddedImage) for outcome in outcomes.values())
        assert library.drop() == 2
