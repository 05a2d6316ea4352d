"""What counts as an image: files in every form, Pillow images and arrays; what does not is told what to do."""

from __future__ import annotations

import array
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from clipsr import Classification, FailedImage, InvalidRequestError
from clipsr._images import read_image

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
shapes = st.one_of(
    npst.array_shapes(min_dims=2, max_dims=2), st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
)


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


@given(pixels=npst.arrays(np.uint8, shapes))
def test_an_array_arrives_pixel_by_pixel(pixels):
    image = opened(read_image(pixels))
    assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2] if pixels.ndim == 3 else 1]
    np.testing.assert_array_equal(np.asarray(image).reshape(pixels.shape), pixels)


def test_an_array_need_not_be_contiguous():
    turned = RGB.transpose(1, 0, 2)[::-1]
    np.testing.assert_array_equal(np.asarray(opened(read_image(turned))), turned)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_pillow_image_arrives_as_it_is(mode):
    image = Image.fromarray(RGB).convert(mode)
    arrived = opened(read_image(image))
    assert arrived.mode == mode
    assert arrived.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


@pytest.mark.parametrize("mode", ["CMYK", "HSV", "LAB", "RGBX", "YCbCr"])
def test_other_colours_become_rgb(mode):
    image = Image.fromarray(RGB).convert(mode) if mode != "LAB" else Image.new("LAB", (3, 2))
    assert opened(read_image(image)).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize(("mode", "arrives"), [("PA", "RGBA"), ("RGBa", "RGBA"), ("La", "LA"), ("I", "I;16")])
def test_modes_that_no_png_file_has(mode, arrives):
    assert opened(read_image(Image.new(mode, (3, 2)))).mode == arrives


def test_a_photo_keeps_its_orientation_and_profile():
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 6
    image.info["icc_profile"] = b"profile"
    arrived = opened(read_image(image))
    assert arrived.getexif()[0x0112] == 6
    assert arrived.info["icc_profile"] == b"profile"


def test_an_encoded_file_in_an_array_is_that_file():
    assert read_image(np.frombuffer(b"file", dtype=np.uint8)) == b"file"
    assert read_image(array.array("B", b"file")) == b"file"
    assert read_image(memoryview(b"file")) == b"file"


class Tensor:
    """What PyTorch's tensors show of themselves."""

    def __array__(self) -> np.ndarray:
        return RGB


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (RGB.astype(np.float32), r"items of 'f'; give uint8"),
        (RGB > 5, r"items of '\?'; give uint8"),
        (RGB.transpose(2, 0, 1)[:, :, :0], "shape"),
        (np.zeros((3, 20, 30), np.uint8), r"shape \(3, 20, 30\); .*array\.transpose\(1, 2, 0\)"),
        (np.zeros((1, 2, 3, 3), np.uint8), r"shape \(1, 2, 3, 3\)"),
        (Image.new("F", (3, 2)), "mode F"),
        (Tensor(), r"Tensor is no image; of a tensor give \.cpu\(\)\.numpy\(\)"),
        (7, "7 is no image; give a path, the bytes of a file"),
        (None, "None is no image"),
        (["photo.png"], r"\['photo.png'\] is no image"),
        (io.StringIO("text"), "binary mode"),
    ],
)
def test_what_is_no_image(client, fake_service, source, message):
    with pytest.raises(TypeError, match=message):
        client.classify([source], ["cat"])
    with pytest.raises(TypeError, match=message):
        list(client.classify_stream([source], ["cat"]))
    assert not fake_service.requests


def test_a_text_file_that_is_no_text(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(b"\x89PNG")
    with path.open(encoding="utf-8") as file, pytest.raises(TypeError, match="binary mode"):
        read_image(file)


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"photo")
    file.close()
    return file


def damaged_picture() -> Image.Image:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, format="PNG")
    return Image.open(io.BytesIO(file.getvalue()[:200]))


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda: "https://example.org/cat.png", "INVALID_ARGUMENT", "is a URL, and only files are read: fetch it"),
        (lambda: "data:image/png;base64," + "A" * 9_000, "INVALID_ARGUMENT", r"AAA\.\.\.' is a URL"),
        (lambda: "file:///cat.png", "INVALID_ARGUMENT", "is a URL"),
        (lambda: "\x89PNG\0", "INVALID_ARGUMENT", "is no path: give the bytes of a file as bytes"),
        (closed_file, "INVALID_ARGUMENT", "closed file"),
        (lambda: "absent.png", "NOT_FOUND", "is gone"),
        (damaged_picture, "DATA_LOSS", "could not be read: "),
    ],
)
def test_one_bad_image_fails_alone(client, fake_service, make, code, message):
    results = client.classify([b"first", make(), b"last"], ["cat"])
    assert [type(result) for result in results] == [Classification, FailedImage, Classification]
    assert results[1].code == code
    assert re.search(message, results[1].message)
    assert "None" not in results[1].message
    outcomes = dict(client.classify_stream([b"first", make(), b"last"], ["cat"]))
    assert outcomes[1].code == code


def test_a_call_for_one_image_raises(client):
    with pytest.raises(InvalidRequestError, match="is a URL") as caught:
        client.upscale("https://example.org/cat.png", scale=2)
    assert caught.value.violations == (("images", str(caught.value)),)


def test_a_file_is_a_file_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data:x").write_bytes(b"photo")
    assert read_image("data:x") == b"photo"


@pytest.mark.parametrize("single", [RGB, RGB[:, :, 0], Image.fromarray(RGB), np.frombuffer(b"file", np.uint8)])
def test_a_single_picture_is_not_taken_for_a_sequence(client, single):
    with pytest.raises(TypeError, match=r"images is one image; .*\[image\]"):
        client.classify(single, ["cat"])
    with pytest.raises(TypeError, match=r"images is one image; .*\[image\]"):
        client.classify_stream(single, ["cat"])


@pytest.mark.parametrize("images", [None, 7])
def test_no_sequence_at_all(client, images):
    with pytest.raises(TypeError, match=f"images is {images}; give a sequence"):
        client.classify(images, ["cat"])


def test_pictures_go_through_every_call(client, fake_service):
    stack = np.stack([RGB, RGB])
    assert len(client.classify(stack, ["cat"])) == 2
    assert len(client.embed_images([Image.fromarray(RGB)])) == 1
    assert client.upscale(RGB, scale=2).content.startswith(b"large \x89PNG")
    assert len(list(client.classify_stream([RGB, Image.fromarray(RGB)], ["cat"]))) == 2
    library = client.library("photos")
    library.create()
    assert len(list(library.add([RGB]))) == 1


def test_neither_pillow_nor_numpy_is_imported():
    script = (
        "import sys, clipsr._images as images; content = images.read_image(memoryview(bytes(12)).cast('B', (2, 2, 3)));"
        "assert content.startswith(b'\\x89PNG'); assert not {'PIL', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
