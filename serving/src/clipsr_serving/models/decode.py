"""The models `decode` (upscaled route) and `decode_native`: image files to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from clipsr_serving.images import (
    FIT_OF_RESIZE_MODE,
    make_native_pixels,
    pad_to_canvas,
    parse_fit,
    pick_canvas_size,
    place,
    read_image,
)
from clipsr_serving.manifest import ImageEncoder, read_manifest
from clipsr_serving.models import _triton

__all__ = ["DecodeModel", "DecodeNativeModel"]

# The most expensive image that `read_image` accepts takes 2 to 6 s; what exceeds this was not foreseen.
_DECODE_CPU_S = 30.0


def _read_images(request: Any, encoder: ImageEncoder) -> list[tuple[Image.Image, str]]:
    """Each row's image and fit; a row without a fit takes the checkpoint's own."""
    own = FIT_OF_RESIZE_MODE[encoder.resize_mode]
    contents = _triton.read_byte_rows(request, "image")
    fits = _triton.read_byte_rows(request, "fit")
    return [(_read(content), parse_fit(fit, default=own)) for (content,), (fit,) in zip(contents, fits, strict=True)]


def _read(content: bytes) -> Image.Image:
    with _triton.limit_cpu(_DECODE_CPU_S):
        return read_image(content)


class DecodeModel:
    """`image`, `fit` to `canvas`, `box`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the canvas sizes and the checkpoint's own fit."""
        _triton.set_up_logging()
        manifest = read_manifest(_triton.find_repository(args))
        self._encoder, self._canvas_sizes_px = manifest.image_encoder, manifest.upscaler.canvas_sizes_px

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself; a bad image fails only the request that brought it."""
        return _triton.answer_each(requests, self._answer)

    def _answer(self, request: Any) -> _triton.Answer:
        placements = [
            place(image, fit=fit, canvas_sizes_px=self._canvas_sizes_px, fill_color=self._encoder.fill_color)
            for image, fit in _read_images(request, self._encoder)
        ]
        # One tensor has one shape: the images of one request share the canvas of the largest.
        size_px = max(pick_canvas_size(item.size_hw, self._canvas_sizes_px) for item in placements)
        return {
            "canvas": np.stack([pad_to_canvas(item.pixels, size_px) for item in placements]),
            "box": np.array([item.box for item in placements], dtype=np.float32),
        }


class DecodeNativeModel:
    """`image`, `fit` to `pixels`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the encoder's input side, and how its checkpoint's images were resized."""
        _triton.set_up_logging()
        self._encoder = read_manifest(_triton.find_repository(args)).image_encoder

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself."""
        return _triton.answer_each(requests, self._answer)

    def _answer(self, request: Any) -> _triton.Answer:
        pixels = [
            make_native_pixels(
                image,
                fit=fit,
                image_size_px=self._encoder.image_size_px,
                interpolation=self._encoder.interpolation,
                fill_color=self._encoder.fill_color,
            )
            for image, fit in _read_images(request, self._encoder)
        ]
        return {"pixels": np.stack(pixels)}
