"""What the models read of an image, as the service makes it, and the reductions that are measured."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from clipsr_training.clip._preprocess import Fitting, planar
from clipsr_training.data import decode
from clipsr_training.degradation import Kernel, reduce

Route = Literal["auto", "upscaled", "native"]
ROUTES: tuple[Route, ...] = get_args(Route)
# "auto" is the route that the service chooses for the file, which is one of the two before.
Rendering = Literal["nearest", "bicubic", "liif", "auto"]
RENDERINGS: tuple[Rendering, ...] = get_args(Rendering)

# Of the tensor contract (docs/tensor-contract.md): an image sits on the smallest canvas that holds it.
CANVAS_SIZES_PX = (32, 64, 128)
Box = tuple[float, float, float, float]


class Canvas(NamedTuple):
    """Inputs of the upscaler for one image.

    Attributes:
        pixels: [3, S, S] uint8, the image at the top left, the rest repeats its edge.
        box: (top, left, height, width) of the region to render, in canvas pixels.
    """

    pixels: np.ndarray
    box: Box


def encode(image: Image.Image) -> bytes:
    """Encode losslessly, and fast rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def make_canvas(image: Image.Image, fitting: Fitting, canvas_sizes_px: Sequence[int] = CANVAS_SIZES_PX) -> Canvas:
    """Put an image, or what fits of one that is too large, on a canvas, as the service's `decode` does.

    Args:
        image: RGB.
        fitting: the checkpoint's.
        canvas_sizes_px: sides of the canvases.
    """
    largest = max(canvas_sizes_px)
    if fitting.resize_mode == "squash":
        reduced = (min(image.width, largest), min(image.height, largest))
        image, box = _resized(image, reduced), (0.0, 0.0, float(reduced[1]), float(reduced[0]))
    elif fitting.resize_mode == "longest":
        image, box = _bordered(image, largest, fitting.fill_color)
    else:
        image, box = _centred(image, largest)
    pixels = planar(image)
    rows, columns = pixels.shape[1:]
    size = min(s for s in canvas_sizes_px if s >= max(rows, columns))
    padding = ((0, 0), (0, size - rows), (0, size - columns))
    return Canvas(pixels=np.pad(pixels, padding, mode="edge"), box=box)


def _centred(image: Image.Image, largest: int) -> tuple[Image.Image, Box]:
    width, height = image.size
    side = min(width, height)
    top, left = (height - side) / 2, (width - side) / 2
    if max(width, height) <= largest:
        return image, (top, left, float(side), float(side))
    rows, columns = math.floor(top), math.floor(left)
    bottom, right = math.ceil(top + side), math.ceil(left + side)
    if max(bottom - rows, right - columns) <= largest:
        return image.crop((columns, rows, right, bottom)), (top - rows, left - columns, float(side), float(side))
    target = min(side, largest)
    square = (left, top, left + side, top + side)
    reduced = image.resize((target, target), Image.Resampling.BICUBIC, box=square)
    return reduced, (0.0, 0.0, float(target), float(target))


def _bordered(image: Image.Image, largest: int, fill_color: int) -> tuple[Image.Image, Box]:
    side = min(max(image.size), largest)
    ratio = max(image.size) / side
    width, height = (max(1, round(length / ratio)) for length in image.size)
    square = Image.new("RGB", (side, side), (fill_color,) * 3)
    square.paste(_resized(image, (width, height)), ((side - width) // 2, (side - height) // 2))
    return square, (0.0, 0.0, float(side), float(side))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def reduce_to(image: Image.Image, side_px: int, kernel: Kernel = "bicubic") -> Image.Image:
    """Cut the centred square and reduce it.

    Raises:
        ValueError: the image is smaller than that.
    """
    side = min(image.size)
    if side < side_px:
        raise ValueError(f"an image of {image.height}x{image.width} px can't be reduced to {side_px} px")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return Image.fromarray(reduce(np.asarray(square), (side_px, side_px), kernel))


def route_of_rendering(rendering: Rendering) -> Route:
    """Return the route by which a file that `prepare_rendering` made meets the encoder in the asked rendering."""
    if rendering == "auto":
        return "auto"
    return "upscaled" if rendering == "liif" else "native"


def prepare_rendering(content: bytes, rendering: Rendering, image_size_px: int) -> bytes:
    """Return the file that one of the service's routes renders as asked, from the file of a square image.

    Every back end renders `liif` and `bicubic` by its own two routes; `nearest` is made here at the encoder's size,
    which the native route then leaves as it is.
    """
    if rendering != "nearest":
        return content
    return encode(decode(content, "the reduced image").resize((image_size_px, image_size_px), Image.Resampling.NEAREST))
