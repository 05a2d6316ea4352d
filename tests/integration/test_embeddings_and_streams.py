"""Streams and embeddings through a real Triton say the same as Classify."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, embedding_pb2, embedding_pb2_grpc, types_pb2
from tests.tolerances import COSINE

LABELS = ["cat", "dog", "horse", "bus"]
SPACE = types_pb2.LabelSpace(labels=LABELS)


@pytest.fixture
def channel(service) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.url) as opened:
        yield opened


@pytest.fixture
def classifier(channel) -> classifier_pb2_grpc.ClassifierServiceStub:
    return classifier_pb2_grpc.ClassifierServiceStub(channel)


@pytest.fixture
def embedder(channel) -> embedding_pb2_grpc.EmbeddingServiceStub:
    return embedding_pb2_grpc.EmbeddingServiceStub(channel)


@pytest.fixture(scope="module")
def images(repo_root) -> list[types_pb2.Image]:
    paths: list[Path] = sorted((repo_root / "samples").glob("*.png"))
    return [types_pb2.Image(content=path.read_bytes()) for path in paths]


def cosines(result: classifier_pb2.ClassifyResult) -> list[float]:
    found = {p.label: p.cosine for p in result.classification.predictions}
    return [found[label] for label in LABELS]


def test_a_stream_says_what_a_single_call_says(classifier, images):
    expected = classifier.Classify(
        classifier_pb2.ClassifyRequest(images=images, options=classifier_pb2.ClassifyOptions(label_space=SPACE)),
        timeout=60,
    )

    def messages() -> Iterator[classifier_pb2.ClassifyStreamRequest]:
        yield classifier_pb2.ClassifyStreamRequest(options=classifier_pb2.ClassifyOptions(label_space=SPACE))
        for round_ in range(10):
            for number, image in enumerate(images):
                index = round_ * len(images) + number
                yield classifier_pb2.ClassifyStreamRequest(image=classifier_pb2.StreamImage(index=index, image=image))

    answers = {answer.index: answer.result for answer in classifier.ClassifyStream(messages(), timeout=120)}
    assert sorted(answers) == list(range(10 * len(images)))
    for index, result in answers.items():
        single = expected.results[index % len(images)]
        assert cosines(result) == pytest.approx(cosines(single), abs=COSINE)
        assert result.classification.route == single.classification.route


@pytest.mark.parametrize("route", [types_pb2.ROUTE_UPSCALED, types_pb2.ROUTE_NATIVE])
def test_embeddings_multiply_to_the_cosines_of_classify(classifier, embedder, images, route):
    request = classifier_pb2.ClassifyRequest(
        images=images, options=classifier_pb2.ClassifyOptions(label_space=SPACE, route=route, return_embedding=True)
    )
    classified = classifier.Classify(request, timeout=60)
    info = classifier.GetModelInfo(classifier_pb2.GetModelInfoRequest(), timeout=10).model_info
    embedded = embedder.EmbedImages(embedding_pb2.EmbedImagesRequest(images=images, route=route), timeout=60)
    texts = embedding_pb2.EmbedTextsRequest(texts=LABELS, templates=[info.default_templates])
    text_rows = np.array([row.values for row in embedder.EmbedTexts(texts, timeout=60).embeddings])
    assert text_rows.shape == (len(LABELS), info.embed_dim)
    assert embedded.model_digest == info.digest
    for result, single in zip(embedded.results, classified.results, strict=True):
        row = np.array(result.embedding.values)
        assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
        assert result.embedding.route == route
        assert (text_rows @ row).tolist() == pytest.approx(cosines(single), abs=COSINE)
        assert list(single.classification.embedding) == pytest.approx(row.tolist(), abs=COSINE)


@pytest.mark.parametrize("route", [types_pb2.ROUTE_UPSCALED, types_pb2.ROUTE_NATIVE])
def test_the_encoder_input_is_what_the_model_saw(classifier, images, route):
    """Sent back as it is, of the encoder's own size, it gives the same answer."""
    info = classifier.GetModelInfo(classifier_pb2.GetModelInfoRequest(), timeout=10).model_info
    options = {"label_space": SPACE, "return_encoder_input": True}
    seen = classifier.Classify(
        classifier_pb2.ClassifyRequest(images=images, options=classifier_pb2.ClassifyOptions(route=route, **options)),
        timeout=60,
    )
    pictures = [result.classification.encoder_input for result in seen.results]
    for picture in pictures:
        with Image.open(io.BytesIO(picture)) as opened:
            assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (info.image_size_px,) * 2)
    again = classifier.Classify(
        classifier_pb2.ClassifyRequest(
            images=[types_pb2.Image(content=picture) for picture in pictures],
            options=classifier_pb2.ClassifyOptions(route=types_pb2.ROUTE_NATIVE, **options),
        ),
        timeout=60,
    )
    for first, second in zip(seen.results, again.results, strict=True):
        assert cosines(second) == pytest.approx(cosines(first), abs=COSINE)


def test_without_templates_a_text_stands_for_itself(embedder):
    def embed(text: str, *templates: str) -> list[float]:
        request = embedding_pb2.EmbedTextsRequest(texts=[text], templates=templates)
        return list(embedder.EmbedTexts(request, timeout=60).embeddings[0].values)

    assert embed("a photo of a cat.") == pytest.approx(embed("cat", "a photo of a {}."), abs=COSINE)
    assert embed("a photo of a cat.") != pytest.approx(embed("cat"), abs=COSINE)


def test_a_threshold_between_two_images_parts_them(classifier, images):
    request = classifier_pb2.ClassifyRequest(
        images=images, options=classifier_pb2.ClassifyOptions(label_space=SPACE, top_k=1)
    )
    best = [r.classification.predictions[0].cosine for r in classifier.Classify(request, timeout=60).results]
    # In the widest gap: answers to other batches differ in their last digits.
    ordered = sorted(best)
    gap, middle = max((upper - lower, (lower + upper) / 2) for lower, upper in pairwise(ordered))
    assert gap > 2 * COSINE
    request.options.none_of_these.min_cosine = middle
    told = [r.classification.none_of_these for r in classifier.Classify(request, timeout=60).results]
    assert told == [cosine < middle for cosine in best]
    assert any(told)
    assert not all(told)
