"""A picture of an image for people to look at."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from clipsr_gateway._images.decode import decode

# Up to this side a lossless file takes a few kilobytes at most, and pixels of tiny images are what people look at.
_LOSSLESS_SIDE_PX = 64

# libwebp's least effort: a twelfth of the time of its default, for files of CIFAR that are 4% larger.
_LOSSLESS_EFFORT = {"lossless": True, "method": 0, "quality": 0}

# Of lossy files; Pillow's own default is 80, which shows on small pictures.
_LOSSY = {"quality": 85}


def make_thumbnail(content: bytes, *, side_px: int) -> bytes:
    """Reduces an image so that its longer side has at most `side_px` pixels; call it outside of the event loop.

    Args:
        content: a file whose header was checked.
        side_px: longest side of the result; smaller images keep their size.

    Returns:
        The bytes of a WebP file, upright, with transparency if the image has some.

    Raises:
        ImageRejectedError: the file is damaged.
    """
    picture = decode(content)
    color, profile = picture.color, picture.icc_profile or b""
    if picture.is_grey:  # WebP has no grey
        color, profile = np.repeat(color, 3, axis=0), b""
    planes = color if picture.alpha is None else np.concatenate([color, picture.alpha])
    image = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    options = _LOSSLESS_EFFORT if max(image.size) <= _LOSSLESS_SIDE_PX else _LOSSY
    image.save(buffer, format="WEBP", icc_profile=profile, **options)
    return buffer.getvalue()
