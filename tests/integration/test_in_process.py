"""`clipsr.local` says of every image what the service says."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from clipsr import Classification, Client, FailedImage, InvalidRequestError
from clipsr.local import Classifier
from tests.tolerances import COSINE, IN_PROCESS_COSINE

BATCH = [sys.executable, "-c", "import sys; from clipsr_client_main import batch; sys.exit(batch())"]


@pytest.fixture(scope="module")
def classifier(repo_root) -> Classifier:
    return Classifier.load(repo_root / "model_repository", profile="cpu-onnx")


@pytest.fixture(scope="module")
def images(repo_root) -> list[Path | bytes]:
    """The samples, some of them small, lossy, on their side or no image at all; more than a batch."""
    samples = sorted((repo_root / "samples").glob("*.png"))
    made: list[Path | bytes] = [*samples, samples[0].with_name("none.png"), b"", b"text", samples[0].read_bytes()[:200]]
    for number, path in enumerate(samples):
        image = Image.open(path).convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        for kind, size in (("JPEG", (24, 17)), ("PNG", (90, 70)), ("WEBP", (300, 200))):
            buffer = io.BytesIO()
            image.resize(size).save(buffer, kind, exif=exif)
            made.append(buffer.getvalue())
    return made


@pytest.mark.parametrize(
    "options",
    [
        {"label_set": "cifar10", "top_k": 0},
        {"label_set": "cifar100", "templates": ["@cifar"], "route": "upscaled", "fit": "squash"},
        {
            "labels": ["a cat", "a horse", "une horloge", "x" * 200],
            "templates": ["{}", "a picture of {}"],
            "route": "native",
        },
        {"labels": ["cat", "bus"], "min_cosine": 0.25, "return_embedding": True, "return_encoder_input": True},
    ],
    ids=lambda options: " ".join(options),
)
def test_the_answers_are_the_services(options, client: Client, classifier, images):
    there, here = client.classify(images, **options), classifier.classify(images, **options)
    assert len(there) == len(here) == len(images) > 40
    for served, local in zip(there, here, strict=True):
        assert type(served) is type(local)
        if not isinstance(served, Classification):
            assert (served.code, served.reason) == (local.code, local.reason)
            continue
        found = {each.label: each for each in local.predictions}
        assert local.predictions[0].label == served.predictions[0].label
        for each in served.predictions:
            assert found[each.label].cosine == pytest.approx(each.cosine, abs=IN_PROCESS_COSINE)
        for field in ("input_hw", "route", "model_digest", "none_of_these"):
            assert getattr(local, field) == getattr(served, field), field
        assert [(w.reason, w.message) for w in local.warnings] == [(w.reason, w.message) for w in served.warnings]
        if "return_embedding" in options:
            assert np.dot(local.embedding, served.embedding) >= 1 - COSINE
            pixels = [np.asarray(Image.open(io.BytesIO(each.encoder_input)), np.int16) for each in (local, served)]
            assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_embeddings_are_the_services(client: Client, classifier, images):
    for served, local in zip(client.embed_images(images), classifier.embed_images(images), strict=True):
        assert type(served) is type(local)
        if hasattr(served, "values"):
            assert np.dot(local.values, served.values) >= 1 - COSINE
            assert (local.route, local.input_hw) == (served.route, served.input_hw)
    for templates in ((), ("@cifar",)):
        there, here = (each.embed_texts(["cat", "a red bus"], templates=templates) for each in (client, classifier))
        for served, local in zip(there, here, strict=True):
            assert np.dot(local.values, served.values) >= 1 - COSINE
            assert local.model_digest == served.model_digest


@pytest.mark.slow  # starts Ray twice
@pytest.mark.timeout(900)
def test_bulk_by_the_models_is_bulk_by_the_service(service, repo_root, images, tmp_path):
    folder, found = tmp_path / "images", []
    folder.mkdir()
    for number, image in enumerate(images):
        if isinstance(image, bytes) or image.is_file():
            (folder / f"{number:02}.png").write_bytes(image if isinstance(image, bytes) else image.read_bytes())
    for name, models in {
        "service": ["--url", service.url],
        "models": ["--repository", str(repo_root / "model_repository"), "--profile", "cpu-onnx"],
    }.items():
        options = ["--labels", "@cifar10", "--output", str(tmp_path / name), "--partition-size", "20", *models]
        done = subprocess.run([*BATCH, "classify", str(folder), *options], timeout=400, check=False)
        assert done.returncode == 1
        found.append(pyarrow.parquet.read_table(tmp_path / name).to_pylist())
    assert len(found[0]) == len(found[1]) == len(images) - 1
    for served, local in zip(*found, strict=True):
        same = ("path", "status", "reason", "label", "route", "input_height", "input_width", "model")
        assert {name: local[name] for name in same} == {name: served[name] for name in same}
        if served["status"] == "OK":
            assert local["cosine"] == pytest.approx(served["cosine"], abs=IN_PROCESS_COSINE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"labels": ["cat", "cat"]},
        {"labels": ["cat", "CAT "]},
        {"labels": ["cat"], "label_set": "cifar10"},
        {"label_set": "none"},
        {"labels": ["cat"], "templates": ["@none"]},
        {"labels": ["cat"], "templates": ["a {} {}"]},
        {"labels": ["cat"], "templates": ["word " * 60 + "{}"]},
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_for_the_same_reason(options, client: Client, classifier, images):
    with pytest.raises(InvalidRequestError) as caught:
        classifier.classify(images[:1], **options)
    assert refusal_of(client, images[:1], options) == caught.value.reason != ""


def refusal_of(client: Client, images: list[Path | bytes], options: dict) -> str:
    """The service's reason; what only the models find out about labels, it says with each image."""
    try:
        [outcome] = client.classify(images, **options)
    except InvalidRequestError as error:
        return error.reason
    assert isinstance(outcome, FailedImage)
    return outcome.reason
