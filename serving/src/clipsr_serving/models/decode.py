"""The models `decode` (upscaled route) and `decode_native`: image files to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsr_serving.images import (
    DECODE_CPU_S,
    FIT_OF_RESIZE_MODE,
    limit_cpu,
    make_native_pixels,
    pad_to_canvas,
    parse_fit,
    pick_canvas_size,
    place,
    read_image,
)
from clipsr_serving.manifest import Manifest, read_manifest
from clipsr_serving.models import _triton

__all__ = ["DecodeModel", "DecodeNativeModel", "Decoder"]

Strings = Sequence[tuple[bytes, ...]]
"""A BYTES input [N, 1]."""


class Decoder:
    """Makes tensors of the image files of a request, each a row.

    Args:
        manifest: canvas sizes, the encoder's side, and how its checkpoint's images were resized.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._encoder = manifest.image_encoder
        self._canvas_sizes_px = manifest.upscaler.canvas_sizes_px

    def make_canvases(self, images: Strings, fits: Strings) -> dict[str, NDArray[Any]]:
        """`canvas` UINT8 [N, 3, S, S] and `box` FP32 [N, 4].

        Raises:
            InputError: an image cannot be read, or there is no such fit.
        """
        placements = [
            place(image, fit=fit, canvas_sizes_px=self._canvas_sizes_px, fill_color=self._encoder.fill_color)
            for image, fit in self._read(images, fits)
        ]
        # One tensor has one shape: the images of one request share the canvas of the largest.
        size_px = max(pick_canvas_size(item.size_hw, self._canvas_sizes_px) for item in placements)
        return {
            "canvas": np.stack([pad_to_canvas(item.pixels, size_px) for item in placements]),
            "box": np.array([item.box for item in placements], dtype=np.float32),
        }

    def make_pixels(self, images: Strings, fits: Strings) -> dict[str, NDArray[Any]]:
        """`pixels` UINT8 [N, 3, R, R], by the native route.

        Raises:
            InputError: as `make_canvases`.
        """
        pixels = [
            make_native_pixels(
                image,
                fit=fit,
                image_size_px=self._encoder.image_size_px,
                interpolation=self._encoder.interpolation,
                fill_color=self._encoder.fill_color,
            )
            for image, fit in self._read(images, fits)
        ]
        return {"pixels": np.stack(pixels)}

    def _read(self, images: Strings, fits: Strings) -> list[tuple[Image.Image, str]]:
        """Each row's image and fit; a row without a fit takes the checkpoint's own."""
        own = FIT_OF_RESIZE_MODE[self._encoder.resize_mode]
        return [
            (_read_image(content), parse_fit(fit, default=own)) for (content,), (fit,) in zip(images, fits, strict=True)
        ]


def _read_image(content: bytes) -> Image.Image:
    with limit_cpu(DECODE_CPU_S):
        return read_image(content)


class DecodeModel:
    """`image`, `fit` to `canvas`, `box`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the canvas sizes and the checkpoint's own fit."""
        _triton.set_up_logging()
        self._decoder = Decoder(read_manifest(_triton.find_repository(args)))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself; a bad image fails only the request that brought it."""
        return _triton.answer_each(requests, self._answer)

    def _answer(self, request: Any) -> _triton.Answer:
        rows = (_triton.read_byte_rows(request, name) for name in ("image", "fit"))
        return self._decoder.make_canvases(*rows)


class DecodeNativeModel:
    """`image`, `fit` to `pixels`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the encoder's input side, and how its checkpoint's images were resized."""
        _triton.set_up_logging()
        self._decoder = Decoder(read_manifest(_triton.find_repository(args)))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself."""
        return _triton.answer_each(requests, self._answer)

    def _answer(self, request: Any) -> _triton.Answer:
        rows = (_triton.read_byte_rows(request, name) for name in ("image", "fit"))
        return self._decoder.make_pixels(*rows)
