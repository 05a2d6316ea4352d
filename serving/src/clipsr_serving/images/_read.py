"""Encoded bytes to RGB pixels, or a reason why not."""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from clipsr_serving.errors import InputError
from clipsr_serving.limits import DEFAULT_LIMITS, Limits

# What the API promises. Pillow knows dozens more, each a parser that strangers could feed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_EXIF_ORIENTATION_TAG = 0x0112  # TIFF 6.0, section 8, tag 274
_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(content: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an image file.

    The first frame of animations; EXIF orientation applied; 16-bit scaled to 8-bit; CMYK, palette and grey converted;
    alpha composited over white. Colour profiles are ignored, as CLIP's training did.

    Args:
        content: the file's bytes; JPEG, PNG, WebP, GIF, BMP or TIFF.
        limits: bounds; pixels are checked on the header, before anything is decoded.

    Returns:
        An image of mode RGB, at least 1x1.

    Raises:
        InputError: IMAGE_EMPTY, IMAGE_TOO_LARGE, IMAGE_UNRECOGNIZED, IMAGE_TOO_MANY_PIXELS or IMAGE_TRUNCATED.
    """
    if not content:
        raise InputError("IMAGE_EMPTY", "The image holds no bytes; send the content of an image file.")
    if len(content) > limits.max_image_bytes:
        raise InputError(
            "IMAGE_TOO_LARGE",
            f"The image file has {len(content):,} bytes, more than the {limits.max_image_bytes:,} allowed; "
            "send it smaller or more compressed.",
        )
    with warnings.catch_warnings():
        # Pillow warns of oddities (odd EXIF, large sizes) that are either harmless here or checked below.
        warnings.simplefilter("ignore")
        image = _open(content, limits)
        _load(image)
        return _to_rgb(_upright(image))


def _open(content: bytes, limits: Limits) -> Image.Image:
    """Read the header only."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("more pixels", limits) from error
    # Pillow's parsers let through whatever they trip over (struct.error, KeyError, OverflowError, ...).
    except Exception as error:
        raise InputError(
            "IMAGE_UNRECOGNIZED",
            "The bytes are not an image in a supported format; send a JPEG, PNG, WebP, GIF, BMP or TIFF file.",
        ) from error
    width, height = image.size
    if width < 1 or height < 1:
        raise InputError("IMAGE_UNRECOGNIZED", f"The image's header says {width}x{height} pixels; send a valid file.")
    if width * height > limits.max_image_pixels:
        raise _too_many_pixels(f"{width}x{height} pixels", limits)
    return image


def _too_many_pixels(found: str, limits: Limits) -> InputError:
    message = f"The image has {found}, beyond the {limits.max_image_pixels:,} allowed; reduce it before sending."
    return InputError("IMAGE_TOO_MANY_PIXELS", message)


def _load(image: Image.Image) -> None:
    """Decode the pixels; anything that fails after a sound header is damage."""
    try:
        image.load()
    except Exception as error:
        raise InputError(
            "IMAGE_TRUNCATED",
            f"The {image.format} file is damaged or cut short and cannot be decoded; send it again in full.",
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION_TAG)
    except Exception:
        # A damaged EXIF block says nothing of the pixels, which decoded well; other viewers ignore it too.
        return image
    method = _TRANSPOSE_OF_ORIENTATION.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        if image.mode.startswith("I"):
            return _from_16_bit(image)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        if image.mode == "F":
            raise ValueError("floating-point pixels have no defined range")
        return image.convert("RGB")
    except ValueError as error:
        raise InputError(
            "IMAGE_UNRECOGNIZED",
            f"Pixels of the kind {image.mode!r} cannot be converted to RGB; save the image with 8 bits a channel.",
        ) from error


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
        raise ValueError("32-bit values have no defined range")
    # 65535 / 257 = 255 exactly; 128 rounds to the nearest.
    eight_bit = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Image.fromarray(eight_bit).convert("RGB")
