"""`clipsr.local`: the client's calls and types over a model repository, without any service."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.serving.conftest import D, L, R, make_repository

from clipsr import Classification, ClassifyOptions, FailedImage, InvalidRequestError
from clipsr.local import Classifier
from clipsr_serving import ServingError

LABELS = ["cat", "dog", "horse"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Classifier:
    return Classifier.load(make_repository(tmp_path_factory.mktemp("repository")), profile="cpu-onnx", threads=1)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """More than a batch, of several sizes."""
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in rng.integers(8, 100, (40, 2)).tolist()]


def png(side: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, "PNG")
    return buffer.getvalue()


def cosines(outcome: Classification) -> dict[str, float]:
    return {each.label: each.cosine for each in outcome.predictions}


def test_every_image_has_its_outcome_in_its_place(classifier, tmp_path):
    (tmp_path / "photo.png").write_bytes(png())
    sources = [png(), b"", tmp_path / "photo.png", tmp_path / "none.png", b"text", np.zeros((5, 7, 3), np.uint8)]
    outcomes = classifier.classify(sources, LABELS)
    failed = [each.reason or each.code if isinstance(each, FailedImage) else None for each in outcomes]
    assert failed == [None, "IMAGE_EMPTY", None, "NOT_FOUND", "IMAGE_UNRECOGNIZED", None]
    assert {each.code for each in outcomes[1:5:3]} == {"INVALID_ARGUMENT"}
    assert outcomes[0].predictions == outcomes[2].predictions
    assert outcomes[5].input_hw == (5, 7)
    for outcome in (outcomes[0], outcomes[5]):
        assert [each.label for each in outcome.predictions] == sorted(cosines(outcome), key=cosines(outcome).get)[::-1]
        assert sum(each.probability for each in outcome.predictions) == pytest.approx(1)
        assert (outcome.route, outcome.queue_ms, outcome.model_digest) == ("upscaled", 0.0, "sha256:0")
        assert outcome.inference_ms > 0
        assert (outcome.embedding, outcome.encoder_input, outcome.warnings) == (None, None, ())


def test_many_images_are_answered_as_each_alone(classifier, pictures):
    together = classifier.classify(iter(pictures), LABELS, top_k=0)
    assert len(together) == len(pictures)
    for picture, outcome in zip(pictures, together, strict=True):
        [alone] = classifier.classify([picture], LABELS, top_k=0)
        assert cosines(alone) == pytest.approx(cosines(outcome), abs=1e-5)
    assert {outcome.route for outcome in together} == {"upscaled", "native"}


def test_nothing_is_asked_without_images(classifier):
    assert classifier.classify([], []) == classifier.embed_images([]) == classifier.embed_texts([]) == []


@pytest.mark.parametrize("encoder", ["robust", "auto"])
def test_an_encoder_that_the_model_lacks_is_named(classifier, encoder):
    for ask in (
        lambda: classifier.classify([], options=ClassifyOptions(labels=LABELS, encoder=encoder)),
        lambda: classifier.embed_images([], encoder=encoder),
    ):
        with pytest.raises(InvalidRequestError, match="clipsr-export --controller FOLDER") as caught:
            ask()
        assert caught.value.reason == "ENCODER_MISSING"
    assert classifier.classify([], options=ClassifyOptions(labels=LABELS, encoder="plain")) == []


def test_what_is_asked_for_is_returned(classifier):
    options = ClassifyOptions(
        labels=LABELS, top_k=2, route="native", fit="squash", return_embedding=True, return_encoder_input=True
    )
    [outcome] = classifier.classify([png()], options=options)
    assert len(outcome.predictions) == 2
    assert outcome.route == "native"
    assert np.linalg.norm(outcome.embedding) == pytest.approx(1, abs=1e-5)
    seen = Image.open(io.BytesIO(outcome.encoder_input))
    assert (seen.size, seen.getpixel((9, 9))) == ((R, R), (255, 0, 0))


def test_embeddings_give_the_cosines(classifier, pictures):
    [photo, failed] = classifier.embed_images([pictures[0], b"text"], route="upscaled")
    texts = classifier.embed_texts([*LABELS, "cat"], templates=["@simple"])
    [outcome] = classifier.classify([pictures[0]], LABELS, route="upscaled", top_k=0)
    assert len(photo.values) == D
    assert (photo.input_hw, photo.route) == (outcome.input_hw, "upscaled")
    assert failed == classifier.classify([b"text"], LABELS)[0]
    found = {label: float(np.dot(photo.values, text.values)) for label, text in zip(LABELS, texts, strict=False)}
    assert found == pytest.approx(cosines(outcome), abs=1e-5)
    assert texts[3] == texts[0]
    assert classifier.embed_texts(["a photo of a cat."])[0].values == pytest.approx(texts[0].values, abs=1e-5)


@pytest.mark.parametrize(
    ("threshold", "is_none"),
    [({}, False), ({"min_cosine": 1.0}, True), ({"min_cosine": -1.0}, False), ({"min_probability": 1.0}, True)],
)
def test_a_threshold_says_none_of_these(threshold, is_none, classifier):
    [outcome] = classifier.classify([png()], LABELS, **threshold)
    assert outcome.none_of_these is is_none
    assert len(outcome.predictions) == 3


def test_the_models_own_rule_is_that_of_its_manifest(classifier, tmp_path):
    with pytest.raises(InvalidRequestError) as caught:
        classifier.classify([png()], LABELS, none_of_these=True)
    assert caught.value.reason == "NONE_BANK_MISSING"
    repository = make_repository(tmp_path)
    names = ["a cat", "bus", "tree"]
    rows = classifier.embed_texts(names, templates=["@simple"])
    document = json.loads((repository / "manifest.json").read_text())
    np.savez(
        repository / "bank.npz",
        labels=np.array(names),
        templates=np.array(["a photo of a {}."]),
        text_embedding=np.array([row.values for row in rows], np.float32),
        digest=np.array(document["artifacts"]["text_encoder/1/model.onnx"]["sha256"]),
    )
    rule = {"file": "bank.npz", "temperature": 1.0, "bias": 0.0, "threshold": 0.0, "max_label_cosine": 1.0}
    (repository / "manifest.json").write_text(json.dumps({**document, "none_of_these": rule}))
    ruled = Classifier.load(repository, profile="cpu-onnx", threads=1)
    [outcome] = ruled.classify([png()], LABELS, none_of_these=True, return_embedding=True)
    scale = document["scoring"]["logit_scale"]
    own = np.exp([scale * each.cosine for each in outcome.predictions]).mean()
    others = np.exp([scale * float(np.dot(outcome.embedding, row.values)) for row in rows[1:]]).mean()
    assert outcome.none_probability == pytest.approx(others / (own + others), abs=1e-4)
    assert outcome.none_of_these  # from the threshold of 0 on
    with pytest.raises(InvalidRequestError) as caught:
        ruled.classify([png()], ["cat", "bus", "tree"], none_of_these=True)
    assert caught.value.reason == "NONE_BANK_EMPTY"
    assert ruled.classify([png()], ["cat", "bus", "tree"])[0].none_probability is None


def test_a_published_set_is_asked_for_by_its_name(classifier):
    assert classifier.classify([png()], label_set="pets")[0].predictions == (
        classifier.classify([png()], ["cat", "dog"])[0].predictions
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "LABELS_EMPTY"),
        ({"labels": ["cat", "cat"]}, "LABEL_DUPLICATE"),
        ({"labels": ["cat", " "]}, "LABEL_EMPTY"),
        ({"labels": ["cat"], "label_set": "pets"}, "LABEL_SPACE_AMBIGUOUS"),
        ({"label_set": "@pets"}, "LABEL_SET_UNKNOWN"),
        ({"labels": ["cat"], "templates": ["@none"]}, "TEMPLATE_SET_UNKNOWN"),
        ({"labels": ["cat"], "templates": ["a photo"]}, "TEMPLATE_WITHOUT_PLACEHOLDER"),
        ({"labels": ["cat"], "fit": "stretch"}, "FIT_UNKNOWN"),
    ],
)
@pytest.mark.parametrize("image", [png(), b"text"])
def test_wrong_labels_and_options_are_an_error_whatever_the_image(image, options, reason, classifier):
    with pytest.raises(InvalidRequestError) as caught:
        classifier.classify([image], **options)
    assert caught.value.reason == reason
    assert caught.value.violations


@pytest.mark.parametrize(
    "call",
    [
        lambda classifier: classifier.classify(png(), LABELS),
        lambda classifier: classifier.classify([png()], "cat"),
        lambda classifier: classifier.classify([3], LABELS),
        lambda classifier: classifier.classify([png()], LABELS, options=ClassifyOptions(labels=LABELS)),
        lambda classifier: classifier.embed_texts("cat"),
    ],
)
def test_arguments_of_another_kind_are_type_errors(call, classifier):
    with pytest.raises(TypeError):
        call(classifier)


def test_what_the_text_encoder_does_not_see_is_warned_of(classifier):
    long = "cat" + "y" * L
    [outcome] = classifier.classify([png()], ["cat", long])
    [warning] = outcome.warnings
    assert (warning.reason, warning.field) == ("TEXT_CUT", "label_space.labels[1]")
    first, second = classifier.embed_texts(["cat", long])
    assert first.warnings == second.warnings
    assert [each.field for each in second.warnings] == ["texts[1]"]


def test_wrong_texts_are_an_error(classifier):
    with pytest.raises(InvalidRequestError) as caught:
        classifier.embed_texts(["cat", ""])
    assert caught.value.reason == "TEXT_EMPTY"


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(ServingError, match=r"manifest\.json is missing"):
        Classifier.load(Path(tmp_path))
