"""Upscaling with both clients, and its codec."""

from __future__ import annotations

import io
import math
from typing import get_args

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from clipsr import (
    DeadlineError,
    InvalidRequestError,
    ServiceError,
    ServiceUnavailableError,
    UpscaledImage,
    UpscaleFormat,
)
from clipsr._codecs.upscale import decode_upscaled, encode_upscale
from clipsr.v1 import types_pb2, upscaler_pb2

uint32 = st.integers(1, 2**32 - 1)
float32 = st.floats(width=32, allow_nan=False)
formats = st.sampled_from(get_args(UpscaleFormat))
images = st.builds(
    UpscaledImage,
    content=st.binary(),
    format=formats,
    input_hw=st.tuples(uint32, uint32),
    output_hw=st.tuples(uint32, uint32),
    queue_ms=float32,
    inference_ms=float32,
    model_digest=st.text(st.characters(exclude_categories=["Cs"])),
)


def size_of(size_hw: tuple[int, int]) -> types_pb2.Size:
    return types_pb2.Size(height=size_hw[0], width=size_hw[1])


@given(image=images)
def test_decoding_returns_what_was_encoded(image):
    response = upscaler_pb2.UpscaleResponse(
        content=image.content,
        format=f"IMAGE_FORMAT_{image.format.upper()}",
        input_size=size_of(image.input_hw),
        output_size=size_of(image.output_hw),
        timing=types_pb2.Timing(queue_ms=image.queue_ms, inference_ms=image.inference_ms),
        model_digest=image.model_digest,
    )
    assert decode_upscaled(upscaler_pb2.UpscaleResponse.FromString(response.SerializeToString())) == image


@given(content=st.binary(), scale=st.floats(1, 1e6), output_format=formats)
def test_a_scale_is_sent_as_it_is(content, scale, output_format):
    request = encode_upscale(content, scale=scale, size_hw=None, output_format=output_format, recipe="clean")
    assert request.recipe == types_pb2.UPSCALE_RECIPE_CLEAN
    assert request.image.content == content
    assert (request.WhichOneof("target"), request.scale) == ("scale", scale)
    assert upscaler_pb2.ImageFormat.Name(request.format) == f"IMAGE_FORMAT_{output_format.upper()}"


@given(size_hw=st.tuples(uint32, uint32))
def test_a_size_is_sent_as_height_and_width(size_hw):
    request = encode_upscale(b"x", scale=None, size_hw=size_hw, output_format="png", recipe="robust")
    assert request.recipe == types_pb2.UPSCALE_RECIPE_ROBUST
    assert request.WhichOneof("target") == "size"
    assert (request.size.height, request.size.width) == size_hw


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "TARGET_MISSING"),
        ({"scale": 2.0, "size_hw": (3, 4)}, "TARGET_MISSING"),
        ({"scale": 0.5}, "SCALE_OUT_OF_RANGE"),
        ({"scale": math.nan}, "SCALE_OUT_OF_RANGE"),
        ({"scale": math.inf}, "SCALE_OUT_OF_RANGE"),
        ({"size_hw": (0, 4)}, "SIZE_TOO_SMALL"),
        ({"size_hw": (4, 2**32)}, "SIZE_TOO_SMALL"),
        ({"scale": 2.0, "output_format": "gif"}, "FORMAT_UNKNOWN"),
        ({"scale": 2.0, "recipe": "vivid"}, "RECIPE_UNKNOWN"),
    ],
)
def test_what_cannot_be_asked(options, reason):
    with pytest.raises(InvalidRequestError) as caught:
        encode_upscale(b"x", **{"scale": None, "size_hw": None, "output_format": "png", "recipe": "clean", **options})
    assert caught.value.reason == reason
    assert caught.value.violations


def test_a_file_larger_than_a_message_is_not_sent(monkeypatch):
    monkeypatch.setattr("clipsr._codecs.formats.MAX_MESSAGE_BYTES", 100)
    with pytest.raises(InvalidRequestError, match="request holds 100") as caught:
        encode_upscale(bytes(101), scale=2, size_hw=None, output_format="png", recipe="clean")
    assert caught.value.reason == "IMAGE_TOO_LARGE"


def test_a_format_of_the_future_is_said():
    with pytest.raises(ServiceError, match="upgrade clipsr"):
        decode_upscaled(upscaler_pb2.UpscaleResponse(format=99))


def test_the_answer_holds_what_the_service_sent(client, fake_service):
    image = client.upscale(b"photo", scale=3.5, output_format="webp")
    assert image == UpscaledImage(
        content=b"large photo",
        format="webp",
        input_hw=(32, 48),
        output_hw=(112, 168),
        queue_ms=0.5,
        inference_ms=12.25,
        model_digest=fake_service.info.digest,
    )


def test_a_recipe_is_asked_for(client, fake_service):
    client.upscale(b"photo", scale=2, recipe="robust")
    assert [request.recipe for request in fake_service.upscales] == [types_pb2.UPSCALE_RECIPE_ROBUST]


@pytest.mark.parametrize("kind", ["path", "text", "file", "bytes"])
def test_images_of_every_source(client, fake_service, tmp_path, kind):
    path = tmp_path / "photo.png"
    path.write_bytes(b"photo")
    source = {"path": path, "text": str(path), "file": io.BytesIO(b"photo"), "bytes": b"photo"}[kind]
    assert client.upscale(source, size_hw=(64, 50)).output_hw == (64, 50)
    assert [request.image.content for request in fake_service.upscales] == [b"photo"]


def test_a_file_that_is_not_there(client, fake_service):
    with pytest.raises(FileNotFoundError):
        client.upscale("nowhere.png", scale=2)
    assert not fake_service.upscales


def test_a_refusal_says_what_and_where(client, fake_service):
    violation = error_details_pb2.BadRequest.FieldViolation(field="size", description="Too small.")
    info = error_details_pb2.ErrorInfo(reason="SIZE_TOO_SMALL", domain="clipsr")
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    fake_service.abort(grpc.StatusCode.INVALID_ARGUMENT, "Too small.", info, bad_request)
    with pytest.raises(InvalidRequestError, match="Too small") as caught:
        client.upscale(b"photo", size_hw=(1, 1))
    assert (caught.value.reason, caught.value.violations) == ("SIZE_TOO_SMALL", (("size", "Too small."),))


def test_nobody_answers(connect):
    with pytest.raises(ServiceUnavailableError):
        connect("127.0.0.1:1", timeout_s=5).upscale(b"photo", scale=2)


def test_a_deadline(client, fake_service):
    fake_service.delay_s = 5
    with pytest.raises(DeadlineError):
        client.upscale(b"photo", scale=2, timeout_s=0.1)
