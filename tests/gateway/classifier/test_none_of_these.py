"""The model's own rule for images that show none of the labels, and labels that mean nothing to it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import grpc
import pytest
from tests.gateway.classifier.test_classify import scores

from clipsr.v1 import classifier_pb2

RULE = {
    **{"file": "bank.npz", "name_count": 311, "threshold": 0.5, "temperature": 1.0, "bias": 0.0},
    **{"false_refusals": 0.05, "auroc": 0.96, "expected_calibration_error": 0.03, "max_label_cosine": 0.8},
}


@pytest.fixture
def with_rule(repository, document):
    (repository / "manifest.json").write_text(json.dumps({**document, "none_of_these": RULE}))


def asked(**more: float) -> classifier_pb2.NoneOfThese:
    return classifier_pb2.NoneOfThese(calibrated=True, **more)


@pytest.mark.usefixtures("with_rule")
@pytest.mark.parametrize(("probability", "is_none"), [(0.49, False), (0.5, True), (1.0, True), (0.0, False)])
async def test_an_image_shows_none_from_the_threshold_on(start, backend, request_of, probability, is_none):
    backend.answer = lambda image, count: replace(scores(0.1, 0.3, 0.2), none_probability=probability)
    one = await start()
    (result,) = (await one.stub.Classify(request_of(labels=["a", "b", "c"], none_of_these=asked()))).results
    found = result.classification
    assert found.none_of_these is is_none
    assert found.none_probability == pytest.approx(probability)
    assert [p.label for p in found.predictions] == ["b", "c", "a"]


@pytest.mark.usefixtures("with_rule")
async def test_any_rule_is_enough(start, backend, request_of):
    backend.answer = lambda image, count: replace(scores(0.1, 0.3, 0.2), none_probability=0.1)
    one = await start()
    request = request_of(labels=["a", "b", "c"], none_of_these=asked(min_cosine=0.4))
    assert (await one.stub.Classify(request)).results[0].classification.none_of_these


@pytest.mark.usefixtures("with_rule")
async def test_who_does_not_ask_is_not_told(start, backend, request_of):
    one = await start()
    (result,) = (await one.stub.Classify(request_of())).results
    assert not result.classification.HasField("none_probability")
    assert [call["wants_none"] for call in backend.user_calls()] == [False]
    info = (await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())).model_info.none_of_these
    assert (info.name_count, info.threshold, round(info.auroc, 3)) == (311, 0.5, 0.96)


async def test_a_model_without_a_rule_says_how_to_get_one(start, backend, request_of, detailed):
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(none_of_these=asked()))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "clipsr-export --none-of-these" in caught.value.details()
    assert detailed(caught.value).reason == "NONE_BANK_MISSING"
    assert not backend.user_calls()


@pytest.mark.usefixtures("with_rule")
async def test_labels_that_leave_no_other_name_are_refused(start, backend, request_of, detailed):
    backend.answer = lambda image, count: replace(scores(0.1, 0.3, 0.2), none_probability=math.nan)
    one = await start()
    (result,) = (await one.stub.Classify(request_of(labels=["a", "b", "c"], none_of_these=asked()))).results
    assert result.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert detailed(result.error).fields == ["options.label_space.labels"]
    assert "send fewer" in detailed(result.error).message


@pytest.mark.usefixtures("with_rule")
async def test_a_backend_that_says_nothing_is_at_fault(start, backend, request_of):
    backend.answer = lambda image, count: scores(0.1, 0.3, 0.2)
    one = await start()
    (result,) = (await one.stub.Classify(request_of(labels=["a", "b", "c"], none_of_these=asked()))).results
    assert result.error.code == grpc.StatusCode.INTERNAL.value[0]


async def test_labels_that_the_model_was_never_taught_are_named(start, request_of, repository, document):
    (repository / "manifest.json").write_text(json.dumps({**document, "taught_names": ["cat", "pickup truck"]}))
    one = await start()
    answer = await one.stub.Classify(request_of(labels=["trucks", "blue giraffe", "a photo of a cat"]))
    (warning,) = answer.warnings
    assert (warning.reason, warning.field) == ("LABEL_NOT_TAUGHT", "options.label_space.labels[1]")
    assert 'never taught "blue", "giraffe"' in warning.message


async def test_labels_in_a_script_without_a_token_are_named(start, request_of, repository):
    (repository / "text_encoder").mkdir(exist_ok=True)
    tokenizer = {"model": {"type": "Unigram", "vocab": [["cat", 0.0], ["狗", 0.0]]}}
    (repository / "text_encoder" / "tokenizer.json").write_text(json.dumps(tokenizer))
    one = await start()
    answer = await one.stub.Classify(request_of(labels=["cat", "狗", "猫"]))
    (warning,) = answer.warnings
    assert (warning.reason, warning.field) == ("LABEL_WITHOUT_KNOWN_TOKEN", "options.label_space.labels[2]")
    everything = await one.stub.Classify(request_of(labels=["猫", "кот"]))
    assert [(w.reason, w.field) for w in everything.warnings] == [
        ("LABEL_WITHOUT_KNOWN_TOKEN", "options.label_space.labels")
    ]
