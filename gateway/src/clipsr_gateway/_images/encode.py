"""Planes of pixels become an image file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from clipsr.v1 import upscaler_pb2
from clipsr_gateway._images.decode import Picture


@dataclass(frozen=True, kw_only=True)
class OutputFormat:
    """A kind of file that can be written.

    Attributes:
        pillow_name: how Pillow calls it.
        title: how people call it.
        holds_alpha: whether it can be transparent.
        holds_grey: whether it has pixels of one channel; grey becomes RGB where it has none.
        max_side_px: rows or columns that its header can count; None for more than any output has.
        options: given to Pillow.
    """

    pillow_name: str
    title: str
    holds_alpha: bool
    holds_grey: bool = True
    max_side_px: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


_PNG = OutputFormat(pillow_name="PNG", title="PNG", holds_alpha=True)

OUTPUT_FORMATS: Mapping[int, OutputFormat] = {
    upscaler_pb2.IMAGE_FORMAT_UNSPECIFIED: _PNG,
    upscaler_pb2.IMAGE_FORMAT_PNG: _PNG,
    upscaler_pb2.IMAGE_FORMAT_JPEG: OutputFormat(
        pillow_name="JPEG",
        title="JPEG",
        holds_alpha=False,
        max_side_px=65_535,  # ITU-T T.81, section B.2.2: 16 bits
        options={"quality": 95, "subsampling": "4:4:4"},  # Pillow advises against more than 95
    ),
    upscaler_pb2.IMAGE_FORMAT_WEBP: OutputFormat(
        pillow_name="WEBP",
        title="WebP",
        holds_alpha=True,
        holds_grey=False,
        max_side_px=16_383,  # RFC 9649, section 3.4: 14 bits
        # Exact keeps the colours below transparent pixels.
        options={"lossless": True, "exact": True, "method": 2},
    ),
    upscaler_pb2.IMAGE_FORMAT_TIFF: OutputFormat(
        pillow_name="TIFF", title="TIFF", holds_alpha=True, options={"compression": "tiff_adobe_deflate"}
    ),
    upscaler_pb2.IMAGE_FORMAT_BMP: OutputFormat(pillow_name="BMP", title="BMP", holds_alpha=False),
}
"""By the number on the wire."""


def encode(picture: Picture, output: OutputFormat) -> bytes:
    """Write a file; an alpha that the format cannot hold is left out, so check `Picture.is_opaque` before."""
    planes = [picture.color]
    if picture.alpha is not None and output.holds_alpha:
        planes.append(picture.alpha)
    pixels = np.ascontiguousarray(np.concatenate(planes).transpose(1, 2, 0))
    # One channel is grey, two grey with alpha, three RGB, four RGBA; Pillow takes grey without its axis.
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    options = dict(output.options)
    if picture.icc_profile is not None and (output.holds_grey or not picture.is_grey):
        options["icc_profile"] = picture.icc_profile
    buffer = io.BytesIO()
    image.save(buffer, output.pillow_name, **options)
    return buffer.getvalue()
