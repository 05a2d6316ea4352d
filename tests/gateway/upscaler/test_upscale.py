"""UpscalerService over a real socket; the backend renders by the nearest pixel, so every output is known exactly."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from clipsr.v1 import classifier_pb2, types_pb2, upscaler_pb2
from clipsr_gateway import BackendFaultError, BackendUnavailableError, Limits
from clipsr_gateway._upscaler.service import MAX_REQUEST_PIXELS

FORMATS = {
    upscaler_pb2.IMAGE_FORMAT_PNG: "PNG",
    upscaler_pb2.IMAGE_FORMAT_JPEG: "JPEG",
    upscaler_pb2.IMAGE_FORMAT_WEBP: "WEBP",
    upscaler_pb2.IMAGE_FORMAT_TIFF: "TIFF",
    upscaler_pb2.IMAGE_FORMAT_BMP: "BMP",
}
LOSSLESS = sorted(FORMATS.keys() - {upscaler_pb2.IMAGE_FORMAT_JPEG})
WITHOUT_ALPHA = [upscaler_pb2.IMAGE_FORMAT_JPEG, upscaler_pb2.IMAGE_FORMAT_BMP]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def file_of(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def request_of(content: bytes, **options: Any) -> upscaler_pb2.UpscaleRequest:
    return upscaler_pb2.UpscaleRequest(image=types_pb2.Image(content=content), **options)


def opened(response: upscaler_pb2.UpscaleResponse) -> Image.Image:
    image = Image.open(io.BytesIO(response.content))
    image.load()
    return image


def nearest(pixels: np.ndarray, target_hw: tuple[int, int]) -> np.ndarray:
    """Enlarges in exact arithmetic."""
    rows, columns = (
        (2 * np.arange(target) + 1) * source // (2 * target)
        for source, target in zip(pixels.shape[:2], target_hw, strict=True)
    )
    return pixels[rows[:, None], columns[None, :]]


async def refused(one: Any, detailed: Any, request: upscaler_pb2.UpscaleRequest) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.upscaler.Upscale(request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    return detailed(caught.value)


@pytest.mark.parametrize(
    ("source_hw", "target_hw"),
    [((120, 160), (480, 640)), ((120, 160), (384, 512)), ((20, 30), (50, 64)), ((1, 1), (70, 3)), ((90, 7), (300, 7))],
)
async def test_tiles_join_to_the_whole_image(start, backend, source_hw, target_hw):
    one = await start()
    pixels = noise(*source_hw)
    size = types_pb2.Size(height=target_hw[0], width=target_hw[1])
    response = await one.upscaler.Upscale(request_of(file_of(pixels), size=size))
    np.testing.assert_array_equal(np.asarray(opened(response)), nearest(pixels, target_hw))
    assert (response.input_size.height, response.input_size.width) == source_hw
    assert (response.output_size.height, response.output_size.width) == target_hw
    assert response.format == upscaler_pb2.IMAGE_FORMAT_PNG
    assert response.model_digest == "sha256:" + "ab" * 32
    assert response.timing.inference_ms > 0
    shapes = {call["canvas"].shape[1:] for call in backend.tile_calls}
    assert len(shapes) == 1  # one window size in all batches
    assert all(len(call["canvas"]) == len(call["box"]) <= backend.tile_limit for call in backend.tile_calls)


@pytest.mark.parametrize(
    ("side", "scale", "expected"), [(10, 3.5, 35), (7, 2.1, 15), (5, 2.5, 13), (3, 1.0, 3), (1, 100.4, 100)]
)
async def test_a_scale_rounds_to_the_nearest_pixel(start, side, scale, expected):
    one = await start()
    response = await one.upscaler.Upscale(request_of(file_of(noise(side, side)), scale=scale))
    assert opened(response).size == (expected, expected)


async def test_windows_are_sent_instead_of_the_whole_image(start, backend):
    one = await start()
    pixels = noise(200, 300)
    response = await one.upscaler.Upscale(request_of(file_of(pixels), scale=4))
    np.testing.assert_array_equal(np.asarray(opened(response)), nearest(pixels, (800, 1200)))
    side = 64 // 4 + 1 + 2 * 5
    assert {call["canvas"].shape[2:] for call in backend.tile_calls} == {(side, side)}


async def test_an_older_export_gets_the_whole_image(start, backend, repository, document, detailed):
    del document["upscaler"]["receptive_field_px"]
    (repository / "manifest.json").write_text(json.dumps(document))
    one = await start()
    pixels = noise(100, 120)
    response = await one.upscaler.Upscale(request_of(file_of(pixels), scale=2))
    np.testing.assert_array_equal(np.asarray(opened(response)), nearest(pixels, (200, 240)))
    assert {call["canvas"].shape[2:] for call in backend.tile_calls} == {(100, 120)}
    answer = await refused(one, detailed, request_of(file_of(noise(MAX_REQUEST_PIXELS // 512 + 1, 512)), scale=1.5))
    assert (answer.reason, answer.fields) == ("IMAGE_TOO_MANY_PIXELS", ["image.content"])


async def test_each_recipe_is_rendered_by_its_model(start, backend, repository, document, detailed):
    entry = {"architecture": "x", "scale_max": 4.0}
    document["upscale_recipes"] = {
        "clean": {"model": "upscale_clean", "receptive_field_px": 5, **entry},
        "robust": {"model": "upscale_robust", "receptive_field_px": 9, **entry},
    }
    (repository / "manifest.json").write_text(json.dumps(document))
    one = await start()
    pixels = noise(200, 300)
    for recipe, model, reach in ((None, "upscale_clean", 5), (1, "upscale_clean", 5), (2, "upscale_robust", 9)):
        backend.tile_calls.clear()
        response = await one.upscaler.Upscale(request_of(file_of(pixels), scale=4, recipe=recipe))
        np.testing.assert_array_equal(np.asarray(opened(response)), nearest(pixels, (800, 1200)))
        assert {call["model"] for call in backend.tile_calls} == {model}
        assert {call["canvas"].shape[2] for call in backend.tile_calls} == {64 // 4 + 1 + 2 * reach}
    info = (await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())).model_info
    assert list(info.upscale_recipes) == [types_pb2.UPSCALE_RECIPE_CLEAN, types_pb2.UPSCALE_RECIPE_ROBUST]


async def test_a_recipe_that_is_not_served_is_refused_by_name(start, detailed):
    one = await start()
    answer = await refused(one, detailed, request_of(PNG, scale=2, recipe=types_pb2.UPSCALE_RECIPE_ROBUST))
    assert answer.message == ("UPSCALE_RECIPE_ROBUST is not published by this service; it has UPSCALE_RECIPE_CLEAN.")


@pytest.mark.parametrize("number", LOSSLESS)
async def test_every_lossless_format_holds_the_same_pixels(start, number):
    one = await start()
    pixels = noise(9, 12)
    response = await one.upscaler.Upscale(request_of(file_of(pixels), scale=2, format=number))
    assert response.format == number
    image = opened(response)
    assert image.format == FORMATS[number]
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), nearest(pixels, (18, 24)))


async def test_jpeg_is_close(start):
    one = await start()
    smooth = np.asarray(Image.linear_gradient("L").resize((40, 40)).convert("RGB"))
    request = request_of(file_of(smooth), scale=2, format=upscaler_pb2.IMAGE_FORMAT_JPEG)
    image = opened(await one.upscaler.Upscale(request))
    assert image.format == "JPEG"
    assert np.abs(np.asarray(image).astype(int) - nearest(smooth, (80, 80))).max() < 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
async def test_transparency_survives(start, backend, kind):
    one = await start()
    pixels = noise(30, 40, 4)
    pixels[..., 3] |= 1  # nothing is fully transparent, so that no colour gives way to its neighbours'
    number = next(number for number, name in FORMATS.items() if name == kind)
    image = opened(await one.upscaler.Upscale(request_of(file_of(pixels), scale=4, format=number)))
    assert image.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(image), nearest(pixels, (120, 160)))


async def test_what_cannot_be_seen_takes_the_colour_of_what_can(start):
    """Or the hidden black would be upscaled into the visible edge."""
    one = await start()
    pixels = np.zeros((30, 30, 4), np.uint8)
    pixels[10:20, 10:20] = (200, 100, 50, 255)
    image = np.asarray(opened(await one.upscaler.Upscale(request_of(file_of(pixels), scale=2))))
    np.testing.assert_array_equal(image[..., 3], nearest(pixels, (60, 60))[..., 3])
    assert (image[8:52, 8:52, :3] == (200, 100, 50)).all()
    assert (image[0, 0] == 0).all()


async def test_an_opaque_alpha_needs_no_rendering_and_fits_every_format(start, backend):
    one = await start()
    pixels = noise(30, 40, 4)
    pixels[..., 3] = 255
    image = opened(await one.upscaler.Upscale(request_of(file_of(pixels), scale=2)))
    assert image.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(image), nearest(pixels, (60, 80)))
    assert sum(len(call["canvas"]) for call in backend.tile_calls) == 2
    bmp = request_of(file_of(pixels), scale=2, format=upscaler_pb2.IMAGE_FORMAT_BMP)
    assert opened(await one.upscaler.Upscale(bmp)).mode == "RGB"


@pytest.mark.parametrize("number", WITHOUT_ALPHA)
async def test_a_format_without_transparency_is_refused_for_an_image_with_it(start, detailed, number):
    one = await start()
    pixels = noise(8, 8, 4)
    answer = await refused(one, detailed, request_of(file_of(pixels), scale=2, format=number))
    assert (answer.reason, answer.fields) == ("FORMAT_WITHOUT_ALPHA", ["format"])
    assert "PNG or WebP or TIFF" in answer.message


def grey_16_bit() -> tuple[Image.Image, np.ndarray]:
    values = np.random.default_rng(0).integers(0, 65536, (20, 24), dtype=np.uint16)
    return Image.fromarray(values), np.round(values / 257).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "mode", "expected"),
    [
        (Image.fromarray(noise(20, 24, 1)), "L", noise(20, 24, 1)),
        (Image.fromarray(noise(20, 24, 1)).convert("LA"), "LA", None),
        (Image.fromarray(noise(20, 24, 1)).convert("1", dither=Image.Dither.NONE), "L", None),
        (Image.fromarray(noise(20, 24)).convert("P"), "RGB", None),
        (*grey_16_bit()[:1], "L", grey_16_bit()[1]),
    ],
    ids=["grey", "grey and alpha", "bilevel", "palette", "16 bit"],
)
async def test_modes(start, image, mode, expected):
    one = await start()
    answer = opened(await one.upscaler.Upscale(request_of(file_of(image), scale=3)))
    assert answer.mode == mode
    expected = np.asarray(image.convert(mode)) if expected is None else expected
    np.testing.assert_array_equal(np.asarray(answer), nearest(expected, (60, 72)))


async def test_cmyk_animations_orientation_and_profiles(start):
    one = await start()
    frame = Image.fromarray(noise(20, 24))
    cmyk = opened(await one.upscaler.Upscale(request_of(file_of(frame.convert("CMYK"), "JPEG"), scale=2)))
    assert (cmyk.mode, cmyk.size) == ("RGB", (48, 40))
    gif = file_of(frame, "GIF", save_all=True, append_images=[frame.rotate(90)])
    assert opened(await one.upscaler.Upscale(request_of(gif, scale=2))).size == (48, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the left when it was stored
    turned = file_of(frame.rotate(90, expand=True), exif=exif)
    response = await one.upscaler.Upscale(request_of(turned, scale=2))
    np.testing.assert_array_equal(np.asarray(opened(response)), nearest(np.asarray(frame), (40, 48)))
    assert (response.input_size.height, response.input_size.width) == (20, 24)


def profile(space: bytes, size: int = 400) -> bytes:
    """A colour profile of which only the header is there."""
    return bytes(16) + space + bytes(16) + b"acsp" + bytes(size - 40)


GREY = Image.fromarray(noise(20, 24)).convert("L")


@pytest.mark.parametrize(
    ("image", "given", "format_", "is_kept"),
    [
        (GREY.convert("RGB"), profile(b"RGB "), "PNG", True),
        (GREY.convert("P"), profile(b"RGB "), "PNG", True),
        (GREY.convert("RGB"), profile(b"GRAY"), "PNG", False),
        (GREY.convert("RGB"), b"a profile", "PNG", False),
        (GREY.convert("RGB"), profile(b"RGB ", size=2_000_000), "PNG", False),
        (GREY.convert("LA"), profile(b"GRAY"), "PNG", True),
        (GREY.convert("LA"), profile(b"GRAY"), "WEBP", False),
        (GREY.convert("LA"), profile(b"RGB "), "PNG", False),
        (Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257), profile(b"GRAY"), "PNG", True),
        (GREY.convert("CMYK"), profile(b"CMYK"), "PNG", False),
    ],
)
async def test_a_profile_stays_with_the_colours_that_it_describes(start, image, given, format_, is_kept):
    one = await start()
    content = file_of(image, "TIFF" if image.mode == "CMYK" else "PNG", icc_profile=given)
    request = request_of(content, scale=2, format=f"IMAGE_FORMAT_{format_}")
    assert opened(await one.upscaler.Upscale(request)).info.get("icc_profile") == (given if is_kept else None)


JPEG = file_of(Image.linear_gradient("L").resize((64, 64)), "JPEG")
PNG = file_of(noise(10, 20))


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (request_of(b"", scale=2), "IMAGE_EMPTY", "image.content"),
        (request_of(b"a text", scale=2), "IMAGE_UNRECOGNIZED", "image.content"),
        (request_of(JPEG[:-60], scale=2), "IMAGE_TRUNCATED", "image.content"),
        (request_of(bytes(1025), scale=2), "IMAGE_TOO_LARGE", "image.content"),
        (request_of(file_of(Image.new("L", (260, 260))), scale=2), "IMAGE_TOO_MANY_PIXELS", "image.content"),
        (request_of(PNG), "TARGET_MISSING", "scale"),
        (request_of(PNG, scale=0.99), "SCALE_OUT_OF_RANGE", "scale"),
        (request_of(PNG, scale=float("nan")), "SCALE_OUT_OF_RANGE", "scale"),
        (request_of(PNG, scale=float("inf")), "SCALE_OUT_OF_RANGE", "scale"),
        (request_of(PNG, scale=1e300), "OUTPUT_TOO_LARGE", "scale"),
        (request_of(PNG, scale=100), "OUTPUT_TOO_LARGE", "scale"),
        (request_of(PNG, size=types_pb2.Size(height=9, width=40)), "SIZE_TOO_SMALL", "size"),
        (request_of(PNG, size=types_pb2.Size(width=40)), "SIZE_TOO_SMALL", "size"),
        (request_of(PNG, size=types_pb2.Size(height=2**32 - 1, width=2**32 - 1)), "OUTPUT_TOO_LARGE", "size"),
        (request_of(PNG, scale=2, format=99), "FORMAT_UNKNOWN", "format"),
        (request_of(PNG, scale=2, recipe=99), "RECIPE_UNKNOWN", "recipe"),
        (request_of(PNG, scale=2, recipe=types_pb2.UPSCALE_RECIPE_ROBUST), "RECIPE_UNAVAILABLE", "recipe"),
        (
            request_of(PNG, size=types_pb2.Size(height=10, width=16_384), format=upscaler_pb2.IMAGE_FORMAT_WEBP),
            "FORMAT_SIDE_TOO_LONG",
            "format",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_refusals(start, backend, detailed, request_, reason, field):
    limits = Limits(max_image_bytes=1024, max_image_pixels=256 * 256, max_output_pixels=200_000)
    one = await start(limits=limits)
    answer = await refused(one, detailed, request_)
    assert (answer.reason, answer.fields, answer.domain) == (reason, [field], "clipsr")
    assert answer.message.endswith(".")
    assert not backend.tile_calls


async def test_every_wrong_field_is_listed(start, detailed):
    one = await start()
    answer = await refused(one, detailed, upscaler_pb2.UpscaleRequest(format=99))
    assert answer.fields == ["format", "scale", "image.content"]


async def test_the_limit_is_published_and_exact(start, detailed):
    one = await start(limits=Limits(max_output_pixels=800))
    assert (
        await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())
    ).model_info.limits.max_output_pixels == 800
    assert opened(await one.upscaler.Upscale(request_of(PNG, scale=2))).size == (40, 20)
    size = types_pb2.Size(height=20, width=41)
    answer = await refused(one, detailed, request_of(PNG, size=size))
    assert "41 x 20" in answer.message
    assert "800" in answer.message


async def test_an_output_beyond_a_message_is_refused(start, detailed):
    one = await start(limits=Limits(max_message_bytes=8_000))
    request = request_of(PNG, size=types_pb2.Size(height=60, width=60), format=upscaler_pb2.IMAGE_FORMAT_BMP)
    answer = await refused(one, detailed, request)
    assert (answer.reason, answer.fields) == ("RESPONSE_TOO_LARGE", ["format"])


async def test_groups_hold_what_the_model_takes_and_are_few_at_once(start, backend):
    backend.tile_limit = 3
    one = await start()
    pixels = noise(60, 60)
    image = opened(await one.upscaler.Upscale(request_of(file_of(pixels), scale=4), metadata=(("x-request-id", "me"),)))
    np.testing.assert_array_equal(np.asarray(image), nearest(pixels, (240, 240)))
    assert [len(call["box"]) for call in backend.tile_calls] == [3, 3, 3, 3, 3, 1]
    assert backend.most_in_flight == 2
    assert {call["request_id"] for call in backend.tile_calls} == {"me"}


async def test_groups_wait_for_a_place_beside_other_calls(start, backend):
    one = await start(max_concurrent=1)
    backend.tile_limit = 1
    requests = [one.upscaler.Upscale(request_of(file_of(noise(40, 40)), scale=4)) for _ in range(3)]
    responses = await asyncio.gather(*requests)
    assert backend.most_in_flight == 1
    assert max(response.timing.queue_ms for response in responses) > 0


async def test_a_deadline_reaches_the_backend(start, backend):
    one = await start()
    backend.hold = asyncio.Event()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.upscaler.Upscale(request_of(PNG, scale=2), timeout=3)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0 < backend.tile_calls[0]["timeout_s"] < 4  # gRPC rounds what is left up, for the way


async def test_a_caller_who_leaves_cancels_all_groups(start, backend, until):
    one = await start()
    backend.hold, backend.tile_limit = asyncio.Event(), 1
    call = one.upscaler.Upscale(request_of(file_of(noise(60, 60)), scale=4))
    await until(lambda: backend.in_flight == 2)
    call.cancel()
    await until(lambda: backend.cancelled == 2)


async def test_triton_down(start, backend, detailed):
    one = await start()
    backend.error = BackendUnavailableError("127.0.0.1:1", "Triton does not answer.")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.upscaler.Upscale(request_of(PNG, scale=2))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert (detailed(caught.value).reason, detailed(caught.value).retry_s) == ("BACKEND_UNAVAILABLE", 1)


@pytest.mark.parametrize("fault", ["error", "shape"])
async def test_a_fault_is_logged_and_not_told(start, backend, detailed, caplog, fault):
    one = await start()
    if fault == "error":
        backend.error = BackendFaultError("a secret")
    else:
        backend.tile_answer = lambda pixels: pixels[:, :, :32, :32]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.upscaler.Upscale(request_of(PNG, scale=2))
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert detailed(caught.value).reason == "INTERNAL"
    assert "secret" not in caught.value.details()
    (record,) = [record for record in caplog.records if record.getMessage() == "backend_fault"]
    assert ("secret" if fault == "error" else "(1, 3, 64, 64)") in record.fields["cause"]
