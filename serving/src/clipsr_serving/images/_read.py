"""Encoded bytes to RGB pixels, or a reason why not."""

from __future__ import annotations

import warnings

from PIL import Image

from clipsr_serving.errors import InputError
from clipsr_serving.images._cost import ImageCostError, check_parts, count_work_pixels
from clipsr_serving.images._file import FORMATS, ImageFileError, load_image, make_upright, open_image, to_eight_bits
from clipsr_serving.limits import DEFAULT_LIMITS, Limits

__all__ = ["FORMATS", "is_small", "read_image"]

# Decoding such an image takes a few milliseconds at most.
_SMALL_BYTES = 64 * 1024
_SMALL_PIXELS = 512 * 512


def is_small(content: bytes) -> bool:
    """Whether an image file is decoded in no time, by its length and header; False for one that cannot be read."""
    if len(content) > _SMALL_BYTES:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            check_parts(content)
            open_image(content, max_pixels=_SMALL_PIXELS)
        except (ImageCostError, ImageFileError):
            return False
    return True


def read_image(content: bytes, *, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Decode an image file.

    The first frame of animations; EXIF orientation applied; 16-bit scaled to 8-bit; CMYK, palette and grey converted;
    alpha composited over white. Colour profiles are ignored, as CLIP's training did.

    Args:
        content: the file's bytes, in one of FORMATS.
        limits: bounds; pixels are checked on the header, before anything is decoded.

    Returns:
        An image of mode RGB, at least 1x1.

    Raises:
        InputError: IMAGE_EMPTY, IMAGE_TOO_LARGE, IMAGE_UNRECOGNIZED, IMAGE_TOO_MANY_PIXELS, IMAGE_TOO_COMPLEX or
            IMAGE_TRUNCATED.
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
        try:
            check_parts(content)
            width, height = open_image(content, max_pixels=limits.max_image_pixels).size
            count_work_pixels(content, (height, width))
            image = load_image(content, max_pixels=limits.max_image_pixels)
        except (ImageCostError, ImageFileError) as error:
            raise InputError(error.reason, error.message) from error
        return _to_rgb(make_upright(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    try:
        if image.mode.startswith("I"):
            image = to_eight_bits(image)
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
