"""Classify with the robust encoder; the backend is a fake at the seam."""

from __future__ import annotations

import json
from dataclasses import replace

import grpc
import numpy as np
import pytest
from tests.gateway.classifier.test_classify import scores
from tests.gateway.conftest import ask

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway import Limits
from clipsr_gateway._images.plan import PlannedImage

KINDS = ["noisy", "hazy", "clean"]
ROBUST, PLAIN = types_pb2.ENCODER_ROBUST, types_pb2.ENCODER_PLAIN


def damaged(*cosine: float):
    """Scores of three labels, and these cosines with the kinds of damage."""
    values = np.array(cosine, np.float32)
    return replace(scores(0.1, 0.3, 0.2), degradation_cosine=values, degradation_probability=values / values.sum())


@pytest.fixture
def with_controller(repository, document):
    (repository / "manifest.json").write_text(json.dumps({**document, "robust_encoder": {"kinds": KINDS}}))


@pytest.mark.usefixtures("with_controller")
async def test_the_answer_names_the_damage_most_likely_first(start, backend, request_of):
    backend.answer = lambda image, count: damaged(0.2, 0.5, 0.3)
    one = await start()
    request = request_of(labels=["a", "b", "c"], encoder=ROBUST)
    (result,) = (await one.stub.Classify(request)).results
    found = result.classification
    assert found.encoder == ROBUST
    assert [d.kind for d in found.degradations] == ["hazy", "clean", "noisy"]
    assert [d.cosine for d in found.degradations] == pytest.approx([0.5, 0.3, 0.2])
    assert sum(d.probability for d in found.degradations) == pytest.approx(1)
    assert [p.label for p in found.predictions] == ["b", "c", "a"]
    assert [call["encoder"] for call in backend.user_calls()] == ["robust"]


@pytest.mark.parametrize("encoder", [types_pb2.ENCODER_UNSPECIFIED, PLAIN])
@pytest.mark.usefixtures("with_controller")
async def test_plain_requests_do_without(start, backend, request_of, encoder):
    one = await start()
    request = request_of(encoder=encoder)
    (result,) = (await one.stub.Classify(request)).results
    assert result.classification.encoder == PLAIN
    assert not result.classification.degradations
    assert [call["encoder"] for call in backend.user_calls()] == ["plain"]


@pytest.mark.usefixtures("with_controller")
async def test_streams_take_it_too(start, backend, request_of):
    backend.answer = lambda image, count: replace(damaged(0.2, 0.5, 0.3), **vars_of(count))
    one = await start()
    request = request_of(encoder=ROBUST)
    image = classifier_pb2.StreamImage(index=7, image=request.images[0])
    messages = (
        classifier_pb2.ClassifyStreamRequest(options=request.options),
        classifier_pb2.ClassifyStreamRequest(image=image),
    )
    call = await ask(one.stub.ClassifyStream, messages)
    answer = await call.read()
    assert answer.result.classification.degradations[0].kind == "hazy"


def vars_of(count: int) -> dict[str, np.ndarray]:
    return {"cosine": np.zeros(count, np.float32), "probability": np.full(count, 1 / count, np.float32)}


def test_it_costs_more_than_the_plain_encoder():
    plain = PlannedImage(
        field="", content=b"", media_type="", size_hw=(8, 8), work_pixels=64, route="native", encoder="plain"
    )
    assert replace(plain, encoder="robust").units() - plain.units() == pytest.approx(1.5)


@pytest.mark.usefixtures("with_controller")
@pytest.mark.parametrize("broken", [None, [0.1, 0.2], [0.1, 0.2, np.nan]])
async def test_unusable_kinds_of_damage_fail_the_image(start, backend, request_of, broken):
    values = None if broken is None else np.array(broken, np.float32)
    backend.answer = lambda image, count: replace(damaged(0.2, 0.5, 0.3), degradation_cosine=values)
    one = await start()
    request = request_of(labels=["a", "b", "c"], encoder=ROBUST)
    (result,) = (await one.stub.Classify(request)).results
    assert result.error.code == grpc.StatusCode.INTERNAL.value[0]


async def test_a_model_without_a_controller_says_how_to_get_one(start, backend, request_of, detailed):
    one = await start()
    request = request_of(encoder=ROBUST)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "clipsr-export --controller" in caught.value.details()
    assert detailed(caught.value).reason == "ENCODER_MISSING"
    assert not backend.user_calls()


async def test_an_unknown_encoder_is_a_wrong_field(start, request_of):
    one = await start()
    request = request_of(encoder=77)
    with pytest.raises(grpc.aio.AioRpcError, match="Encoder 77 is unknown") as caught:
        await one.stub.Classify(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.usefixtures("with_controller")
async def test_model_info_lists_the_kinds(start):
    one = await start()
    info = (await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())).model_info
    assert list(info.degradation_kinds) == KINDS


@pytest.mark.usefixtures("with_controller")
async def test_names_of_kinds_count_in_the_size_of_an_answer(start, request_of, repository, document):
    kinds = [f"{i}{'x' * 1000}" for i in range(100)]
    (repository / "manifest.json").write_text(json.dumps({**document, "robust_encoder": {"kinds": kinds}}))
    one = await start(limits=Limits(max_message_bytes=100_000))
    request = request_of(encoder=ROBUST)
    with pytest.raises(grpc.aio.AioRpcError, match="could take"):
        await one.stub.Classify(request)
