"""Restoring with both clients, and its codec."""

from __future__ import annotations

from dataclasses import asdict
from typing import get_args

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from clipsr import Degradation, InvalidRequestError, RestoredImage, RestorerInfo, ServiceError, UpscaleFormat
from clipsr._codecs import formats
from clipsr._codecs.restore import decode_restored, encode_restore
from clipsr.v1 import classifier_pb2, restorer_pb2, types_pb2, upscaler_pb2

OPTIONS = {"remove": ["haze"], "steps": None, "seed": 0, "force": False, "output_format": "png", "upscale": None}
uint32 = st.integers(1, 2**32 - 1)
float32 = st.floats(width=32, allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"]))
images = st.builds(
    RestoredImage,
    content=st.binary(),
    format=st.sampled_from(get_args(UpscaleFormat)),
    size_hw=st.tuples(uint32, uint32),
    output_hw=st.tuples(uint32, uint32),
    removed=st.lists(text).map(tuple),
    steps=uint32,
    unchanged=st.booleans(),
    queue_ms=float32,
    inference_ms=float32,
    model_digest=text,
    detected=st.lists(st.builds(Degradation, kind=text, cosine=float32, probability=float32)).map(tuple),
)


@given(image=images)
def test_decoding_returns_what_was_encoded(image):
    response = restorer_pb2.RestoreResponse(
        content=image.content,
        format=f"IMAGE_FORMAT_{image.format.upper()}",
        size=types_pb2.Size(height=image.size_hw[0], width=image.size_hw[1]),
        removed=image.removed,
        steps=image.steps,
        unchanged=image.unchanged,
        timing=types_pb2.Timing(queue_ms=image.queue_ms, inference_ms=image.inference_ms),
        model_digest=image.model_digest,
        output_size=types_pb2.Size(height=image.output_hw[0], width=image.output_hw[1]),
        detected=[types_pb2.Degradation(**asdict(each)) for each in image.detected],
    )
    assert decode_restored(restorer_pb2.RestoreResponse.FromString(response.SerializeToString())) == image


@given(content=st.binary(), remove=st.lists(text, min_size=1), steps=uint32, seed=st.integers(0, 2**64 - 1))
def test_a_request_holds_what_was_asked(content, remove, steps, seed):
    options = {"steps": steps, "seed": seed, "force": True, "output_format": "webp", "upscale": 3.5}
    request = encode_restore(content, remove=remove, **options)
    assert request.upscale == 3.5
    assert (request.image.content, list(request.remove)) == (content, remove)
    assert (request.steps, request.seed, request.force) == (steps, seed, True)
    assert request.format == upscaler_pb2.IMAGE_FORMAT_WEBP


def test_the_service_chooses_what_is_left_open():
    request = encode_restore(b"x", **{**OPTIONS, "remove": []})
    assert (request.steps, request.seed, request.force, request.upscale, list(request.remove)) == (0, 0, False, 0, [])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"upscale": 0.5}, "SCALE_OUT_OF_RANGE"),
        ({"upscale": float("nan")}, "SCALE_OUT_OF_RANGE"),
        ({"steps": 0}, "STEPS_OUT_OF_RANGE"),
        ({"steps": -1}, "STEPS_OUT_OF_RANGE"),
        ({"seed": -1}, "SEED_OUT_OF_RANGE"),
        ({"seed": 2**64}, "SEED_OUT_OF_RANGE"),
        ({"output_format": "gif"}, "FORMAT_UNKNOWN"),
    ],
)
def test_what_cannot_be_asked(options, reason):
    with pytest.raises(InvalidRequestError) as caught:
        encode_restore(b"x", **{**OPTIONS, **options})
    assert caught.value.reason == reason
    assert caught.value.violations


@pytest.mark.parametrize("options", [{"remove": "haze"}, {"force": 1, "remove": []}, {"seed": 1.5}, {"seed": True}])
def test_arguments_of_another_kind(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        encode_restore(b"x", **{**OPTIONS, **options})


def test_a_file_larger_than_a_message_is_not_sent(monkeypatch):
    monkeypatch.setattr(formats, "MAX_MESSAGE_BYTES", 100)
    with pytest.raises(InvalidRequestError, match="request holds 100"):
        encode_restore(bytes(101), **OPTIONS)


def test_a_format_of_the_future_is_said():
    with pytest.raises(ServiceError, match="upgrade clipsr"):
        decode_restored(restorer_pb2.RestoreResponse(format=99))


def test_the_answer_holds_what_the_service_sent(client, fake_service):
    fake_service.detects = {"hazy": 0.75, "clean": 0.25}
    image = client.restore(b"photo", remove=["haze", "rain"], steps=3, seed=9, upscale=2, output_format="webp")
    assert image == RestoredImage(
        content=b"clear photo",
        format="webp",
        size_hw=(32, 48),
        output_hw=(64, 96),
        removed=("haze", "rain"),
        steps=3,
        unchanged=False,
        queue_ms=0.5,
        inference_ms=12.25,
        model_digest=fake_service.info.digest,
        detected=(
            Degradation(kind="hazy", cosine=0.375, probability=0.75),
            Degradation(kind="clean", cosine=0.125, probability=0.25),
        ),
    )
    assert [request.seed for request in fake_service.restores] == [9]


def test_the_model_s_description_says_what_is_removed(client, fake_service):
    assert client.model_info().restorer is None
    kind = classifier_pb2.DamageKind(name="hazy", words=["haze"])
    restorer = classifier_pb2.RestorerInfo(architecture="unet", kinds=[kind], default_steps=5, max_steps=20)
    fake_service.info.restorer.CopyFrom(restorer)
    fake_service.info.limits.max_restore_pixels = 1000
    info = client.model_info()
    assert info.restorer == RestorerInfo(architecture="unet", kinds={"hazy": ("haze",)}, default_steps=5, max_steps=20)
    assert info.limits.max_restore_pixels == 1000


def test_a_service_without_a_restorer_says_so(client, fake_service):
    info = error_details_pb2.ErrorInfo(reason="RESTORER_MISSING", domain="clipsr")
    fake_service.abort(grpc.StatusCode.FAILED_PRECONDITION, "No restorer; export one.", info)
    with pytest.raises(InvalidRequestError, match="export one") as caught:
        client.restore(b"photo", remove=["haze"])
    assert caught.value.reason == "RESTORER_MISSING"
