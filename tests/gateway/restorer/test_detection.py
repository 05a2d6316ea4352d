"""Restore where the robust encoder says what is wrong with an image, and restoring with upscaling."""

from __future__ import annotations

import io
import json

import grpc
import numpy as np
import pytest
from PIL import Image
from tests.gateway.restorer.test_restore import KINDS, noise, opened, refused, request_of
from tests.gateway.upscaler.test_upscale import nearest

from clipsr.v1 import upscaler_pb2
from clipsr_gateway import Limits
from clipsr_gateway._backend.protocol import Damage

DETECTED = ["noisy", "hazy", "clean"]  # in another order than the restorer's, which knows no noise


def write(repository, document, **changes) -> None:
    document["restorer"] = {"architecture": "test", "kinds": KINDS, "default_steps": 5, "max_steps": 20}
    (repository / "manifest.json").write_text(json.dumps({**document, **changes}))


@pytest.fixture
def detecting(repository, document):
    write(repository, document, robust_encoder={"kinds": DETECTED})


@pytest.fixture
def restoring(repository, document):
    write(repository, document)


def damage(*cosine: float) -> Damage:
    values = np.array(cosine, np.float32)
    return Damage(cosine=values, probability=values / values.sum())


@pytest.mark.usefixtures("detecting")
async def test_what_is_detected_is_said_and_told_to_the_network(start, backend):
    backend.damage = damage(0.2, 0.6, 0.2)
    one, pixels = await start(), noise(20, 30)
    response = await one.restorer.Restore(request_of(pixels))
    np.testing.assert_array_equal(np.asarray(opened(response)), 255 - pixels)
    assert [each.kind for each in response.detected] == ["hazy", "noisy", "clean"]
    assert [each.probability for each in response.detected] == pytest.approx([0.6, 0.2, 0.2])
    assert (list(response.removed), response.unchanged, response.steps) == ([], False, 5)
    (call,) = backend.restore_calls
    assert call["context"] == pytest.approx([0.6, 0, 0, 0.2])  # hazy, rainy, raindrop, clean
    (embedded,) = backend.embed_calls
    assert (embedded["encoder"], embedded["route"]) == ("robust", "upscaled")
    assert response.timing.inference_ms > 2 * 4  # of both


@pytest.mark.usefixtures("detecting")
async def test_a_caller_s_word_outweighs_what_is_detected(start, backend):
    backend.damage = damage(0.2, 0.6, 0.2)
    one = await start()
    response = await one.restorer.Restore(request_of(noise(9, 9), remove=["rain"]))
    assert (list(response.removed), response.detected[0].kind) == (["rainy"], "hazy")
    assert backend.restore_calls[0]["context"].tolist() == [0, 1, 0, 0]


@pytest.mark.usefixtures("detecting")
@pytest.mark.parametrize("remove", [[], ["haze"]])
async def test_a_clean_picture_comes_back_as_it_is_unless_forced(start, backend, remove):
    backend.damage = damage(0.2, 0.3, 0.5)
    one, pixels = await start(), noise(20, 30, 4)
    response = await one.restorer.Restore(request_of(pixels, remove=remove))
    seen = pixels[..., 3] > 0  # colours below full transparency are nobody's
    np.testing.assert_array_equal(np.asarray(opened(response))[seen], pixels[seen])
    assert (response.unchanged, response.steps, list(response.removed)) == (True, 0, [])
    assert response.detected[0].kind == "clean"
    assert not backend.restore_calls
    forced = await one.restorer.Restore(request_of(pixels, remove=remove, force=True))
    assert (forced.unchanged, forced.steps) == (False, 5)
    assert backend.restore_calls[0]["context"] == pytest.approx([1, 0, 0, 0] if remove else [0.3, 0, 0, 0.5])


@pytest.mark.usefixtures("detecting")
async def test_a_clean_jpeg_does_not_lose_by_being_written_again(start, backend):
    backend.damage = damage(0.2, 0.3, 0.5)
    one, buffer = await start(), io.BytesIO()
    Image.fromarray(noise(20, 30)).save(buffer, "JPEG", quality=30)
    content = buffer.getvalue()
    jpeg = upscaler_pb2.IMAGE_FORMAT_JPEG
    assert (await one.restorer.Restore(request_of(content, format=jpeg))).content == content
    assert (await one.restorer.Restore(request_of(content))).content != content  # a PNG
    larger = await one.restorer.Restore(request_of(content, format=jpeg, upscale=2))
    assert (opened(larger).size, larger.unchanged) == ((60, 40), True)


@pytest.mark.usefixtures("detecting")
async def test_unusable_kinds_of_damage_fail_the_call(start, backend, detailed):
    one = await start()
    code, _ = await refused(one, detailed, request_of(noise(4, 4)))
    assert code == grpc.StatusCode.INTERNAL


@pytest.mark.parametrize(("scale", "target_hw"), [(2, (40, 60)), (1.5, (30, 45)), (1, (20, 30))])
@pytest.mark.usefixtures("restoring")
async def test_a_restored_picture_is_upscaled_in_the_same_call(start, backend, scale, target_hw):
    one, pixels = await start(), noise(20, 30, 4)
    response = await one.restorer.Restore(request_of(pixels, remove=["haze"], upscale=scale))
    found = np.asarray(opened(response))
    rgb = np.where(pixels[..., 3:] > 0, 255 - pixels[..., :3], 0).astype(np.uint8)
    assert found.shape == (*target_hw, 4)
    seen = nearest(pixels[..., 3:].repeat(3, axis=2), target_hw)[..., 0] > 0
    np.testing.assert_array_equal(found[..., :3][seen], nearest(rgb, target_hw)[seen])
    assert (response.output_size.height, response.output_size.width) == target_hw
    assert (response.size.height, response.size.width) == (20, 30)
    assert bool(backend.tile_calls) == (scale > 1)


@pytest.mark.parametrize(
    ("upscale", "reason"),
    [
        (0.5, "SCALE_OUT_OF_RANGE"),
        (-2, "SCALE_OUT_OF_RANGE"),
        (float("nan"), "SCALE_OUT_OF_RANGE"),
        (3, "OUTPUT_TOO_LARGE"),
    ],
)
async def test_an_impossible_scale_is_refused_by_its_field(
    start, backend, repository, document, detailed, upscale, reason
):
    write(repository, document)
    one = await start(limits=Limits(max_output_pixels=800))
    code, answer = await refused(one, detailed, request_of(noise(10, 10), remove=["haze"], upscale=upscale))
    assert (code, answer.fields, answer.reason) == (grpc.StatusCode.INVALID_ARGUMENT, ["upscale"], reason)
    assert not backend.restore_calls


async def test_a_model_that_upscales_no_clean_pictures_says_so(start, repository, document, detailed):
    recipes = {"robust": {"model": "upscale_robust", "receptive_field_px": 5}}
    write(repository, document, upscale_recipes=recipes)
    one = await start()
    _, answer = await refused(one, detailed, request_of(noise(4, 4), remove=["haze"], upscale=2))
    assert (answer.fields, answer.reason) == (["upscale"], "RECIPE_UNAVAILABLE")
