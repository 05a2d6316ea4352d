"""Headers of images, against what full decoding says."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps

from clipsr_gateway import ImageRejectedError
from clipsr_gateway._images.file import FORMATS
from clipsr_gateway._images.header import read_header

MANY = 10**9


def encode(image: Image.Image, image_format: str, orientation: int | None = None, **options: object) -> bytes:
    if orientation is not None:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of any size in a hundred bytes; its pixels are missing."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("image_format", FORMATS)
def test_size_of_every_format(image_format):
    header = read_header(encode(Image.new("RGB", (7, 5)), image_format), max_pixels=MANY)
    assert (header.format, header.size_hw) == (image_format, (5, 7))
    assert header.media_type == ("image/heic" if image_format == "HEIF" else f"image/{image_format.lower()}")


def test_photos_of_many_phones_are_jpegs():
    """MPO: a JPEG that holds another picture behind the first."""
    pictures = [Image.new("RGB", (7, 5), color) for color in ("red", "blue")]
    header = read_header(encode(pictures[0], "MPO", save_all=True, append_images=pictures[1:]), max_pixels=MANY)
    assert (header.media_type, header.size_hw) == ("image/jpeg", (5, 7))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_size_is_that_of_the_upright_image(image_format, orientation):
    content = encode(Image.new("RGB", (7, 5)), image_format, orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert read_header(content, max_pixels=MANY).size_hw == (upright.height, upright.width)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_every_mode_of_png(mode):
    assert read_header(encode(Image.new(mode, (3, 2)), "PNG"), max_pixels=MANY).size_hw == (2, 3)


def test_cmyk_jpeg_and_animated_gif():
    assert read_header(encode(Image.new("CMYK", (3, 2)), "JPEG"), max_pixels=MANY).size_hw == (2, 3)
    frames = [Image.new("P", (3, 2), color) for color in range(3)]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_header(content, max_pixels=MANY).size_hw == (2, 3)


def test_one_pixel():
    assert read_header(encode(Image.new("L", (1, 1)), "PNG"), max_pixels=1).size_hw == (1, 1)


@pytest.mark.parametrize("side", [8193, 10_000, 20_000, 2**31 - 1], ids=["limit", "warning", "error", "largest"])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_bomb_is_refused_by_its_header_whatever_pillow_does(side, action):
    """Pillow is silent up to 89 Mpixel, then warns, and beyond twice that raises."""
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(ImageRejectedError) as caught:
            read_header(png_of_size(side, side), max_pixels=8192 * 8192)
    assert caught.value.reason == "IMAGE_TOO_MANY_PIXELS"


def test_the_limit_itself_is_allowed():
    assert read_header(png_of_size(8192, 8192), max_pixels=8192 * 8192).size_hw == (8192, 8192)


def test_pixels_are_not_decoded():
    """The body of this file is garbage, and its metadata may hide behind it: the header still answers."""
    content = encode(Image.new("RGB", (40, 30)), "PNG")
    start = content.index(b"IDAT") + 4
    assert read_header(content[:start] + b"\xff" * 50, max_pixels=MANY).size_hw == (30, 40)


def test_a_truncated_jpeg_is_left_to_the_decoder():
    content = encode(Image.effect_noise((64, 64), 50), "JPEG")
    assert read_header(content[: len(content) // 2], max_pixels=MANY).size_hw == (64, 64)


def test_damaged_exif_does_not_refuse_the_image():
    content = encode(Image.new("RGB", (7, 5)), "JPEG", 6).replace(b"Exif\x00\x00MM\x00*", b"Exif\x00\x00XX\xff\xff")
    assert sorted(read_header(content, max_pixels=MANY).size_hw) == [5, 7]


@pytest.mark.parametrize("image_format", ["ICO", "PPM", "TGA", "PDF"])
def test_other_formats_are_refused(image_format):
    with pytest.raises(ImageRejectedError) as caught:
        read_header(encode(Image.new("RGB", (16, 16)), image_format), max_pixels=MANY)
    assert caught.value.reason == "IMAGE_UNRECOGNIZED"


SEEDS = [encode(Image.new("RGB", (7, 5)), name, 6 if name in ("JPEG", "PNG") else None) for name in FORMATS]


@given(
    seed=st.sampled_from(SEEDS), cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 200), st.binary()))
)
def test_any_bytes_give_a_size_or_a_refusal(seed, cut, flips):
    content = bytearray(seed[:cut])
    for position, data in flips:
        content[position : position + len(data)] = data
    reason = None
    try:
        header = read_header(bytes(content), max_pixels=MANY)
    except ImageRejectedError as error:
        reason = error.reason
    else:
        assert min(header.size_hw) >= 1
        assert header.size_hw[0] * header.size_hw[1] <= MANY
    assert reason in (None, "IMAGE_UNRECOGNIZED", "IMAGE_TRUNCATED", "IMAGE_TOO_MANY_PIXELS")
