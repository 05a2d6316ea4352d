"""What lossy files do to a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Subsampling = Literal["4:2:0", "4:4:4"]


@dataclass(frozen=True, kw_only=True)
class FileFormat:
    """How a picture is written.

    Attributes:
        codec: "jpeg" or "webp".
        quality: 1 to 100.
        subsampling: of a JPEG's chroma; WebP has 4:2:0 always.
    """

    codec: Literal["jpeg", "webp"] = "jpeg"
    quality: int
    subsampling: Subsampling = "4:2:0"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"the quality of a file is 1 to 100, got {self.quality}")


def write_pixels(pixels: np.ndarray, form: FileFormat) -> bytes:
    """Encode RGB uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if form.codec == "jpeg":
        image.save(buffer, "JPEG", quality=form.quality, subsampling=form.subsampling)
    else:
        # Method 0 is four times as fast, and blurs alike.
        image.save(buffer, "WEBP", quality=form.quality, method=0)
    return buffer.getvalue()


def read_pixels(content: bytes) -> np.ndarray:
    """Decode what `write_pixels` made to RGB uint8 [H, W, 3]."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def save(pixels: np.ndarray, forms: Sequence[FileFormat]) -> np.ndarray:
    """Return what is left of an image after it was written and read in each form in turn; nothing is done for none."""
    for form in forms:
        pixels = read_pixels(write_pixels(pixels, form))
    return pixels
