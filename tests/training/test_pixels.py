"""What reaches the encoder, against OpenCLIP's own transform and the service's `decode`."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsr_serving.images import FIT_OF_RESIZE_MODE
from clipsr_serving.images import make_canvas as served_canvas
from clipsr_training.clip._preprocess import Fitting, make_preprocess, planar
from clipsr_training.data import decode
from clipsr_training.evaluation._backends.base import Scoring, resolve_templates
from clipsr_training.evaluation._backends.pixels import (
    CANVAS_SIZES_PX,
    encode,
    make_canvas,
    prepare_rendering,
    reduce_to,
    route_of_rendering,
)


def picture(width: int, height: int) -> Image.Image:
    """A picture with structure at every scale."""
    rng = np.random.default_rng(width * 1000 + height)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_native_pixels_are_those_of_openclip(resize_mode, interpolation):
    from open_clip.transform import image_transform

    config = {"resize_mode": resize_mode, "interpolation": interpolation, "fill_color": 9}
    preprocess = make_preprocess(48, Fitting.of({**config, "mean": (0.5, 0.5, 0.5), "timm_model_name": "x"}))
    reference = image_transform(48, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), **config)
    for size in ((100, 60), (60, 100), (48, 48), (20, 31)):
        image = picture(*size)
        assert torch.equal(torch.from_numpy(planar(preprocess(image))).float() / 255, reference(image))


@settings(max_examples=100)
@given(width=st.integers(1, 300), height=st.integers(1, 300), resize_mode=st.sampled_from(sorted(FIT_OF_RESIZE_MODE)))
def test_a_canvas_is_the_services(width, height, resize_mode):
    image = picture(width, height)
    canvas = make_canvas(image, Fitting(resize_mode=resize_mode, fill_color=7))
    fit = FIT_OF_RESIZE_MODE[resize_mode]
    pixels, box = served_canvas(image, fit=fit, canvas_sizes_px=CANVAS_SIZES_PX, fill_color=7)
    assert np.array_equal(canvas.pixels, pixels)
    assert np.array_equal(np.array(canvas.box, dtype=np.float32), box)


def test_decoding_applies_orientation_and_puts_alpha_on_white():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture(30, 50).save(buffer, "PNG", exif=exif)
    assert decode(buffer.getvalue(), "x").size == (50, 30)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode(encode(clear), "x").getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match="row 7 can't be read as an image"):
        decode(b"text", "row 7")


def test_reductions_are_of_the_centred_square():
    image = picture(90, 40)
    square = image.crop((25, 0, 65, 40))
    assert np.array_equal(reduce_to(image, 40), square)
    assert np.array_equal(reduce_to(image, 10), square.resize((10, 10), Image.Resampling.BICUBIC))
    aliased = np.asarray(reduce_to(image, 10, "nearest"))
    assert np.array_equal(aliased, np.asarray(square)[2::4, 2::4])
    with pytest.raises(ValueError, match="40x90 px can't be reduced to 41"):
        reduce_to(image, 41)


def test_renderings_reach_the_encoder_by_the_services_routes():
    image = picture(16, 16)
    content = encode(image)
    assert [route_of_rendering(r) for r in ("nearest", "bicubic", "liif")] == ["native", "native", "upscaled"]
    nearest = decode(prepare_rendering(content, "nearest", 64), "x")
    assert np.array_equal(nearest, np.asarray(image).repeat(4, axis=0).repeat(4, axis=1))
    # The native route leaves it as it is.
    assert np.array_equal(make_preprocess(64, Fitting())(nearest), nearest)
    assert prepare_rendering(content, "liif", 64) == content


def test_probabilities():
    cosines = np.array([[0.3, 0.1, -0.2]])
    softmax = Scoring(function="softmax", logit_scale=50.0).probabilities(cosines)
    assert softmax == pytest.approx(torch.tensor(cosines * 50).softmax(-1).numpy())
    sigmoid = Scoring(function="sigmoid", logit_scale=10.0, logit_bias=-3.0).probabilities(cosines)
    assert sigmoid == pytest.approx(torch.tensor(cosines * 10 - 3).sigmoid().numpy())


@pytest.mark.parametrize(
    ("templates", "sentence"),
    [
        (["@nothing"], "no template set @nothing; known: @simple"),
        (["a photo"], "needs one {} where the label goes; 'a photo' has not"),
        (["{} {}"], "needs one {}"),
        ([], "at least one template"),
    ],
)
def test_templates_that_are_none(templates, sentence):
    with pytest.raises(ValueError, match=sentence):
        resolve_templates(templates)
    assert len(resolve_templates(["@imagenet"])) == 80
