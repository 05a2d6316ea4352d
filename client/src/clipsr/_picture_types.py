"""Answers that are image files, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipsr._types import Degradation

UpscaleFormat = Literal["png", "jpeg", "webp", "tiff", "bmp"]
"""The kind of file that a picture is written as; "jpeg" and "bmp" hold no transparency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpscaledImage:
    """An image at its new size.

    Attributes:
        content: an image file.
        format: the kind of file.
        input_hw: rows and columns of the image as sent, after EXIF orientation, in pixels.
        output_hw: rows and columns of the image in `content`.
        queue_ms: waiting in the gateway.
        inference_ms: from the first tile sent to Triton to the last that came back.
        model_digest: of the model that answered, equal to ModelInfo.digest.
    """

    content: bytes
    format: UpscaleFormat
    input_hw: tuple[int, int]
    output_hw: tuple[int, int]
    queue_ms: float
    inference_ms: float
    model_digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoredImage:
    """An image without its damage.

    Attributes:
        content: an image file.
        format: the kind of file.
        size_hw: rows and columns of the image as sent, after EXIF orientation.
        output_hw: rows and columns of the image in `content`.
        removed: kinds of damage that were asked for and removed, by their published names.
        steps: evaluations of the network for each pixel; 0 where the image was judged clean.
        unchanged: whether every pixel is as it was, before any upscaling.
        queue_ms: waiting in the gateway.
        inference_ms: in Triton.
        model_digest: of the model that answered, equal to ModelInfo.digest.
        detected: what may be wrong with the image as sent, most likely first; empty where the service detects nothing.
    """

    content: bytes
    format: UpscaleFormat
    size_hw: tuple[int, int]
    output_hw: tuple[int, int]
    removed: tuple[str, ...]
    steps: int
    unchanged: bool
    queue_ms: float
    inference_ms: float
    model_digest: str
    detected: tuple[Degradation, ...] = ()
