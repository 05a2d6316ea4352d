"""RestorerService over a real socket; the backend turns colours around, so every output is known exactly."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from clipsr.v1 import classifier_pb2, restorer_pb2, types_pb2, upscaler_pb2
from clipsr_gateway import BackendFaultError, BackendUnavailableError, Limits
from clipsr_gateway._restorer.kinds import make_context, match_kinds

KINDS = [
    {"name": "hazy", "words": ["haze", "fog"]},
    {"name": "rainy", "words": ["rain", "rain streaks"]},
    {"name": "raindrop", "words": ["raindrops"]},
    {"name": "clean", "words": []},
]
WORDS = {kind["name"]: (kind["name"], *kind["words"]) for kind in KINDS}


@pytest.fixture
def repository(repository, document):
    document["restorer"] = {"architecture": "test", "kinds": KINDS, "default_steps": 5, "max_steps": 20}
    (repository / "manifest.json").write_text(json.dumps(document))
    return repository


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def request_of(pixels: np.ndarray | Image.Image | bytes, **options: Any) -> restorer_pb2.RestoreRequest:
    content = pixels
    if not isinstance(content, bytes):
        buffer = io.BytesIO()
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(buffer, "PNG", exif=image.getexif(), icc_profile=image.info.get("icc_profile"))
        content = buffer.getvalue()
    return restorer_pb2.RestoreRequest(image=types_pb2.Image(content=content), **options)


def opened(response: restorer_pb2.RestoreResponse) -> Image.Image:
    image = Image.open(io.BytesIO(response.content))
    image.load()
    return image


async def refused(one: Any, detailed: Any, request: restorer_pb2.RestoreRequest, **call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.restorer.Restore(request, **call)
    return caught.value.code(), detailed(caught.value)


async def test_a_picture_comes_back_restored(start, backend):
    one, pixels = await start(), noise(20, 30)
    response = await one.restorer.Restore(request_of(pixels, remove=["the fog"], seed=7))
    np.testing.assert_array_equal(np.asarray(opened(response)), 255 - pixels)
    assert (response.size.height, response.size.width) == (20, 30)
    assert (list(response.removed), response.steps, response.unchanged) == (["hazy"], 5, False)
    assert response.format == upscaler_pb2.IMAGE_FORMAT_PNG
    assert response.model_digest == "sha256:" + "ab" * 32
    assert response.timing.inference_ms > 0
    (call,) = backend.restore_calls
    np.testing.assert_array_equal(call["lq"], pixels.transpose(2, 0, 1))
    assert call["context"].tolist() == [1, 0, 0, 0]
    assert (call["steps"], call["seed"]) == (5, 7)


async def test_force_restores_what_nobody_named_and_says_when_nothing_changed(start, backend):
    one = await start()
    response = await one.restorer.Restore(request_of(noise(9, 9), force=True, steps=1))
    assert (list(response.removed), response.steps, response.unchanged) == ([], 1, True)
    assert not backend.restore_calls[0]["context"].any()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
async def test_grey_stays_grey_and_transparency_stays_as_it_is(start, mode):
    one = await start()
    pixels = noise(12, 10, len(mode))
    image = Image.fromarray(pixels, mode)
    restored = opened(await one.restorer.Restore(request_of(image, remove=["hazy"])))
    assert restored.mode == mode
    found, n_colors = np.asarray(restored).reshape(12, 10, -1), len(mode.rstrip("A"))
    pixels = pixels.reshape(12, 10, -1)
    seen = pixels[..., -1] > 0 if mode.endswith("A") else np.ones((12, 10), bool)
    np.testing.assert_array_equal(found[seen][..., :n_colors], 255 - pixels[seen][..., :n_colors])
    np.testing.assert_array_equal(found[..., n_colors:], pixels[..., n_colors:])


async def test_orientation_is_applied_and_files_of_other_kinds_are_written(start, detailed):
    one, image = await start(), Image.fromarray(noise(10, 30))
    image.getexif()[0x0112] = 6
    for number, kind in ((upscaler_pb2.IMAGE_FORMAT_WEBP, "WEBP"), (upscaler_pb2.IMAGE_FORMAT_TIFF, "TIFF")):
        response = await one.restorer.Restore(request_of(image, remove=["rain"], format=number))
        assert (response.size.height, response.size.width) == (30, 10)
        assert (opened(response).format, opened(response).size) == (kind, (10, 30))
    transparent = request_of(noise(4, 4, 4), remove=["rain"], format=upscaler_pb2.IMAGE_FORMAT_JPEG)
    assert (await refused(one, detailed, transparent))[1].reason == "FORMAT_WITHOUT_ALPHA"


async def test_a_service_without_a_restorer_says_how_to_have_one(start, document, repository, detailed):
    del document["restorer"]
    (repository / "manifest.json").write_text(json.dumps(document))
    one = await start()
    code, answer = await refused(one, detailed, request_of(noise(4, 4), remove=["hazy"]))
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert answer.reason == "RESTORER_MISSING"
    assert "clipsr-export --restorer FILE" in answer.message
    assert not (await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())).model_info.HasField("restorer")


async def test_what_is_removed_is_published_with_its_limits(start):
    one = await start(limits=Limits(max_restore_pixels=100))
    info = (await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())).model_info
    assert [kind.name for kind in info.restorer.kinds] == ["hazy", "rainy", "raindrop"]
    assert list(info.restorer.kinds[0].words) == ["haze", "fog"]
    assert (info.restorer.default_steps, info.restorer.max_steps) == (5, 20)
    assert info.limits.max_restore_pixels == 100


@pytest.mark.parametrize(
    ("options", "field", "reason", "sentence"),
    [
        ({}, "remove", "REMOVE_MISSING", "hazy, rainy, raindrop. This service does not detect"),
        ({"remove": ["haze", "mould"]}, "remove[1]", "DAMAGE_UNKNOWN", "'mould' names no damage"),
        ({"remove": [""]}, "remove[0]", "DAMAGE_UNKNOWN", "hazy, rainy, raindrop"),
        ({"remove": ["clean"]}, "remove[0]", "DAMAGE_UNKNOWN", "'clean' names no damage"),
        ({"remove": ["haze"], "steps": 21}, "steps", "STEPS_OUT_OF_RANGE", "21 steps are more than the 20"),
        ({"remove": ["haze"], "format": 99}, "format", "FORMAT_UNKNOWN", "IMAGE_FORMAT_PNG"),
        ({"remove": ["haze"], "side": 11}, "image.content", "IMAGE_TOO_MANY_PIXELS", "121 pixels; at most 100"),
    ],
)
async def test_bad_requests_are_refused_by_their_field(start, backend, detailed, options, field, reason, sentence):
    one = await start(limits=Limits(max_restore_pixels=100))
    side = options.pop("side", 10)
    code, answer = await refused(one, detailed, request_of(noise(side, side), **options))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert (answer.fields, answer.reason) == ([field], reason)
    assert sentence in answer.message
    assert not backend.restore_calls


async def test_files_that_are_no_images_are_refused(start, detailed):
    one = await start()
    for content, reason in ((b"", "IMAGE_EMPTY"), (b"text", "IMAGE_UNRECOGNIZED")):
        code, answer = await refused(one, detailed, request_of(content, remove=["hazy"]))
        assert (code, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert answer.fields == ["image.content"]


async def test_a_deadline_that_cannot_be_met_is_refused_up_front(start, backend, detailed):
    """As fast as the first, the second would take a hundred thousand times as long."""
    one = await start()
    await one.restorer.Restore(request_of(noise(2, 2), remove=["hazy"], steps=1))
    large = request_of(noise(400, 500), remove=["hazy"], steps=20)
    code, answer = await refused(one, detailed, large, timeout=30)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "500 x 400 pixels in 20 steps takes this service" in answer.message
    assert "fewer steps" in answer.message
    assert len(backend.restore_calls) == 1
    await one.restorer.Restore(large)  # nobody waits for it at a certain time


async def test_a_caller_who_gives_up_stops_the_backend_and_frees_its_place(start, backend, until):
    one = await start()
    backend.hold = asyncio.Event()
    call = asyncio.ensure_future(one.restorer.Restore(request_of(noise(300, 300), remove=["hazy"])))
    await until(lambda: backend.in_flight == 1)
    call.cancel()
    await until(lambda: backend.cancelled == 1)
    backend.hold = None
    assert await one.restorer.Restore(request_of(noise(300, 300), remove=["hazy"]))


async def test_of_large_pictures_one_at_a_time_is_in_triton(start, backend, until):
    one = await start()
    backend.hold = asyncio.Event()
    calls = [
        asyncio.ensure_future(one.restorer.Restore(request_of(noise(side, side), remove=["hazy"])))
        for side in (300, 300, 8)
    ]
    await until(lambda: len(backend.restore_calls) == 2)  # a large one, and the small one beside it
    sizes = sorted(request["lq"].shape[1] for request in backend.restore_calls)
    assert sizes == [8, 300]
    backend.hold.set()
    await asyncio.gather(*calls)
    assert backend.most_in_flight == 2


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (BackendUnavailableError("x:1", "away"), grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE"),
        (BackendFaultError("a secret"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_faults_of_the_backend(start, backend, detailed, error, code, reason):
    one = await start()
    backend.error = error
    found, answer = await refused(one, detailed, request_of(noise(4, 4), remove=["hazy"]))
    assert (found, answer.reason) == (code, reason)
    assert "secret" not in answer.message


@pytest.mark.parametrize(
    ("texts", "kinds"),
    [
        (["hazy"], ("hazy",)),
        (["HAZE"], ("hazy",)),
        (["remove the rain-streaks, and some fog"], ("hazy", "rainy")),
        (["raindrops"], ("raindrop",)),  # not rain
        (["rain", "Raindrop", "rainy"], ("rainy", "raindrop")),
    ],
)
def test_words_are_matched_to_kinds(texts, kinds):
    found, violations = match_kinds(texts, WORDS)
    assert (found, violations) == (kinds, [])
    context = make_context(found, WORDS)
    assert context.sum() == pytest.approx(1)
    assert {kind for kind, share in zip(WORDS, context, strict=True) if share} == set(kinds)


@pytest.mark.parametrize("text", ["", "blurred", "hazel", "clean", "a" * 5000, "_", "霧"])
def test_what_names_no_kind_is_said(text):
    found, (violation,) = match_kinds([text], WORDS)
    assert found == ()
    assert (violation.field, violation.reason) == ("remove[0]", "DAMAGE_UNKNOWN")
    assert len(violation.message) < 200
