"""None of these, the embedding and the encoder's input, in single calls."""

from __future__ import annotations

import io

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.gateway.conftest import TILE_PX, embedding_of

from clipsr.v1 import classifier_pb2
from clipsr_gateway import Limits, Similarities
from clipsr_gateway._calls.response_size import WARNINGS_BYTES, png_bytes_at_most
from clipsr_gateway._classifier.classifier import encoder_input_png
from clipsr_gateway._classifier.options import RejectionThreshold

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def rule(**thresholds: float) -> classifier_pb2.NoneOfThese:
    return classifier_pb2.NoneOfThese(**thresholds)


@pytest.mark.parametrize(
    ("thresholds", "is_none"),
    [
        ({"min_cosine": 0.3}, False),  # equal is enough
        ({"min_cosine": 0.3001}, True),
        ({"min_probability": 0.5}, False),
        ({"min_probability": 0.51}, True),
        ({"min_cosine": 0.31, "min_probability": 0.0}, True),
        ({"min_cosine": -1.0, "min_probability": 0.6}, True),
        ({"min_cosine": 0.2, "min_probability": 0.4}, False),
        ({"min_cosine": -1.0}, False),
        ({"min_cosine": 1.0}, True),
        ({"min_probability": 0.0}, False),
    ],
)
async def test_none_of_these_is_told_by_the_best_label(start, backend, request_of, thresholds, is_none):
    backend.answer = lambda image, count: Similarities(
        cosine=np.array([0.1, 0.3, 0.2], np.float32), probability=np.array([0.2, 0.5, 0.3], np.float32)
    )
    one = await start()
    request = request_of(labels=["a", "b", "c"], top_k=2, none_of_these=rule(**thresholds))
    (result,) = (await one.stub.Classify(request)).results
    assert result.classification.none_of_these is is_none
    assert [p.label for p in result.classification.predictions] == ["b", "c"]  # complete all the same


async def test_without_a_rule_there_is_always_a_label(start, backend, request_of):
    backend.answer = lambda image, count: Similarities(
        cosine=np.full(2, -1, np.float32), probability=np.zeros(2, np.float32)
    )
    one = await start()
    (result,) = (await one.stub.Classify(request_of())).results
    assert not result.classification.none_of_these


@pytest.mark.parametrize(
    ("thresholds", "reason", "fields"),
    [
        ({}, "THRESHOLD_MISSING", ["options.none_of_these"]),
        ({"min_cosine": 1.1}, "THRESHOLD_OUT_OF_RANGE", ["options.none_of_these.min_cosine"]),
        ({"min_cosine": float("nan")}, "THRESHOLD_OUT_OF_RANGE", ["options.none_of_these.min_cosine"]),
        ({"min_probability": -0.1}, "THRESHOLD_OUT_OF_RANGE", ["options.none_of_these.min_probability"]),
        (
            {"min_cosine": float("-inf"), "min_probability": float("inf")},
            "THRESHOLD_OUT_OF_RANGE",
            ["options.none_of_these.min_cosine", "options.none_of_these.min_probability"],
        ),
    ],
)
async def test_a_wrong_rule_is_refused(start, backend, request_of, detailed, thresholds, reason, fields):
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(none_of_these=rule(**thresholds)))
    error = detailed(caught.value)
    assert (caught.value.code(), error.reason, error.fields) == (INVALID, reason, fields)
    assert not backend.user_calls()


def test_the_rule_needs_no_threshold_to_be_false():
    assert not RejectionThreshold(min_cosine=None, min_probability=None).applies(cosine=-1, probability=0)


async def test_embedding_and_encoder_input_come_only_when_asked_for(start, backend, request_of, png):
    backend.pixels = np.random.default_rng(0).integers(0, 256, (3, TILE_PX, TILE_PX), dtype=np.uint8)
    one = await start()
    (plain,) = (await one.stub.Classify(request_of())).results
    assert not plain.classification.embedding
    assert not plain.classification.encoder_input
    (full,) = (await one.stub.Classify(request_of(return_embedding=True, return_encoder_input=True))).results
    np.testing.assert_array_equal(np.array(full.classification.embedding, np.float32), embedding_of(png()))
    with Image.open(io.BytesIO(full.classification.encoder_input)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(picture).transpose(2, 0, 1), backend.pixels)


@pytest.mark.parametrize("option", ["return_embedding", "return_encoder_input"])
async def test_an_extra_of_another_shape_is_a_fault(start, backend, request_of, detailed, option, monkeypatch):
    backend.pixels = np.zeros((3, 8, 8), np.uint8)
    monkeypatch.setattr("clipsr_gateway._backend.protocol.embedding_fault", lambda *_: "an embedding is not finite")
    one = await start()
    (result,) = (await one.stub.Classify(request_of(**{option: True}))).results
    assert detailed(result.error).reason == "INTERNAL"


@pytest.mark.parametrize("option", ["return_embedding", "return_encoder_input"])
async def test_extras_count_towards_the_size_of_the_answer(start, backend, request_of, png, detailed, option):
    """Both bounds: what is refused could have been too large, and what is allowed fits."""
    backend.pixels = np.random.default_rng(0).integers(
        0, 256, (3, TILE_PX, TILE_PX), dtype=np.uint8
    )  # hard to compress
    request = request_of(*[png()] * 8, **{option: True})
    generous = await start()
    size = (await generous.stub.Classify(request)).ByteSize()
    tight = await start(limits=Limits(max_message_bytes=size - 1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tight.stub.Classify(request)
    assert (detailed(caught.value).reason, detailed(caught.value).fields) == ("RESPONSE_TOO_LARGE", ["options.top_k"])
    spare = 8 * (png_bytes_at_most(TILE_PX) - 3 * TILE_PX**2) + WARNINGS_BYTES
    fair = await start(limits=Limits(max_message_bytes=size + spare))
    assert await fair.stub.Classify(request)


@pytest.mark.parametrize("side_px", [1, 16, 64, 224, 384])
@pytest.mark.parametrize("kind", ["noise", "few levels", "constant"])
def test_no_png_is_larger_than_estimated(side_px, kind):
    rng = np.random.default_rng(side_px)
    top = {"noise": 256, "few levels": 7, "constant": 1}[kind]
    pixels = rng.integers(0, top, (3, side_px, side_px), dtype=np.uint8)
    assert len(encoder_input_png(pixels)) < png_bytes_at_most(side_px)
