"""The upscaled route: an image becomes a canvas, and a box on it that the super-resolution model renders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsr_serving.images._fit import CENTER_CROP, PAD


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Pixels to put on a canvas, and the region of them to render.

    Attributes:
        pixels: UINT8 [height, width, 3] RGB; neither side exceeds the largest canvas.
        box: (top, left, height, width) in pixels of `pixels`, fractional where a centred square falls between
            pixels; inside `pixels`, sides at least 1.
    """

    pixels: NDArray[np.uint8]
    box: tuple[float, float, float, float]

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns of `pixels`."""
        return self.pixels.shape[0], self.pixels.shape[1]


def place(image: Image.Image, *, fit: str, canvas_sizes_px: Sequence[int], fill_color: int = 0) -> Placement:
    """Choose what of an image goes on a canvas, and which region is rendered.

    An image that fits the largest canvas is taken whole, so that the model sees what surrounds a centre crop. A larger
    one is cut to its centred square (`center_crop`), and what still does not fit is reduced by antialiased bicubic:
    `squash` axis by axis, as its aspect ratio is given up anyway. `pad` puts it into a square with borders.

    Args:
        image: mode RGB.
        fit: `center_crop`, `squash` or `pad`.
        canvas_sizes_px: sides of the canvases, any order.
        fill_color: grey level of the borders of `pad`.
    """
    largest = max(canvas_sizes_px)
    if fit == PAD:
        return _pad(image, largest, fill_color)
    width, height = image.size
    if fit == CENTER_CROP:
        side = min(width, height)
        top, left = (height - side) / 2, (width - side) / 2
        if max(width, height) <= largest:
            return Placement(pixels=_array(image), box=(top, left, side, side))
        return _cut_square(image, top, left, side, largest)
    reduced = (min(width, largest), min(height, largest))
    if reduced != image.size:
        image = image.resize(reduced, Image.Resampling.BICUBIC)
    return Placement(pixels=_array(image), box=(0.0, 0.0, float(reduced[1]), float(reduced[0])))


def _pad(image: Image.Image, largest: int, fill_color: int) -> Placement:
    side = min(max(image.size), largest)
    ratio = max(image.size) / side
    width, height = (max(1, round(length / ratio)) for length in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (side, side), (fill_color,) * 3)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return Placement(pixels=_array(square), box=(0.0, 0.0, float(side), float(side)))


def _cut_square(image: Image.Image, top: float, left: float, side: int, largest: int) -> Placement:
    rows, columns = math.floor(top), math.floor(left)
    bottom, right = math.ceil(top + side), math.ceil(left + side)
    if max(bottom - rows, right - columns) <= largest:
        cut = image.crop((columns, rows, right, bottom))
        return Placement(pixels=_array(cut), box=(top - rows, left - columns, float(side), float(side)))
    square = (left, top, left + side, top + side)
    target = min(side, largest)
    reduced = image.resize((target, target), Image.Resampling.BICUBIC, box=square)
    return Placement(pixels=_array(reduced), box=(0.0, 0.0, float(target), float(target)))


def _array(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image, dtype=np.uint8)


def pick_canvas_size(size_hw: tuple[int, int], canvas_sizes_px: Sequence[int]) -> int:
    """Find the smallest canvas that holds a size.

    Raises:
        ValueError: none does.
    """
    needed = max(size_hw)
    fitting = [size for size in canvas_sizes_px if size >= needed]
    if not fitting:
        raise ValueError(f"no canvas of {sorted(canvas_sizes_px)} px holds {size_hw[0]}x{size_hw[1]}")
    return min(fitting)


def pad_to_canvas(pixels: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Put pixels at the top left of a canvas; the rest repeats their last row and column.

    Args:
        pixels: UINT8 [height, width, 3], neither side above `size_px`.
        size_px: side of the canvas.

    Returns:
        UINT8 [3, size_px, size_px], contiguous.
    """
    height, width = pixels.shape[:2]
    padding = ((0, 0), (0, size_px - height), (0, size_px - width))
    return np.pad(pixels.transpose(2, 0, 1), padding, mode="edge")


def make_canvas(
    image: Image.Image, *, fit: str, canvas_sizes_px: Sequence[int], fill_color: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Turn one image into the inputs of `upscale`.

    Returns:
        canvas UINT8 [3, S, S], and box FP32 [4] as (top, left, height, width) in canvas pixels.
    """
    placement = place(image, fit=fit, canvas_sizes_px=canvas_sizes_px, fill_color=fill_color)
    size_px = pick_canvas_size(placement.size_hw, canvas_sizes_px)
    return pad_to_canvas(placement.pixels, size_px), np.asarray(placement.box, dtype=np.float32)
