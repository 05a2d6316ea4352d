"""From an image file to what the models read, as the service does it, and the reductions that are measured."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from open_clip.transform import image_transform
from PIL import Image, ImageOps
from torchvision.transforms import Compose, Normalize

Route = Literal["auto", "upscaled", "native"]
ROUTES: tuple[Route, ...] = get_args(Route)
Rendering = Literal["nearest", "bicubic", "liif"]
RENDERINGS: tuple[Rendering, ...] = get_args(Rendering)

# Of the tensor contract (docs/tensor-contract.md): an image sits on the smallest canvas that holds it.
CANVAS_SIZES_PX = (32, 64, 128)
Preprocess = Callable[[Image.Image], Image.Image]
Box = tuple[float, float, float, float]


class Canvas(NamedTuple):
    """Inputs of the upscaler for one image.

    Attributes:
        pixels: [3, S, S] uint8, the image at the top left, the rest repeats its edge.
        box: (top, left, height, width) of the region to render, in canvas pixels.
    """

    pixels: np.ndarray
    box: Box


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image file to RGB: EXIF orientation applied, alpha over white, as the service does.

    Raises:
        ValueError: it can't be decoded; the message names it.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
            return image.convert("RGB")
    # Pillow's parsers let through whatever they trip over.
    except Exception as error:
        raise ValueError(f"{name} can't be read as an image: {error}") from error


def encode(image: Image.Image) -> bytes:
    """Encode losslessly, and fast rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def takes_native_route(image: Image.Image, route: Route, native_min_side_px: int) -> bool:
    """Whether an image skips super-resolution."""
    return route == "native" or (route == "auto" and min(image.size) >= native_min_side_px)


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How a checkpoint expects images that are not R x R.

    Attributes:
        resize_mode: OpenCLIP's "shortest" (centre crop), "squash", or "longest" (with borders).
        interpolation: of the native route, "bicubic" or "bilinear".
        fill_color: grey level of the borders.
    """

    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    fill_color: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Fitting":
        """Read a checkpoint's `preprocess_cfg`, or the manifest's `image_encoder`; absent fields keep the defaults."""
        known = {field.name: config[field.name] for field in fields(cls) if config.get(field.name) is not None}
        return cls(**known)


def make_preprocess(image_size_px: int, fitting: Fitting) -> Preprocess:
    """Return OpenCLIP's validation transform up to the pixels: RGB image to RGB image of R x R."""
    transform = image_transform(
        image_size_px,
        is_train=False,
        resize_mode=fitting.resize_mode,
        interpolation=fitting.interpolation,
        fill_color=fitting.fill_color,
    )
    assert isinstance(transform, Compose), "OpenCLIP composes its validation transform"
    # The last steps make and normalize a tensor, which every back end does by itself.
    steps = transform.transforms[: _n_pixel_steps(transform.transforms)]

    def apply(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return apply


def _n_pixel_steps(steps: Sequence[object]) -> int:
    if not (len(steps) > 2 and isinstance(steps[-1], Normalize) and "ToTensor" in type(steps[-2]).__name__):
        raise RuntimeError("OpenCLIP's validation transform no longer ends in ToTensor and Normalize")
    return len(steps) - 2


def planar(image: Image.Image) -> np.ndarray:
    """Return uint8 [3, H, W]."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


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


def reduce_to(image: Image.Image, side_px: int) -> Image.Image:
    """Cut the centred square and reduce it by antialiased bicubic.

    Raises:
        ValueError: the image is smaller than that.
    """
    side = min(image.size)
    if side < side_px:
        raise ValueError(f"an image of {image.height}x{image.width} px can't be reduced to {side_px} px")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if side == side_px:
        return square
    return square.resize((side_px, side_px), Image.Resampling.BICUBIC)


def prepare_rendering(image: Image.Image, rendering: Rendering, image_size_px: int) -> tuple[bytes, Route]:
    """Return the file and route by which a square image meets the encoder in the asked rendering.

    Every back end renders `liif` and `bicubic` by its own two routes; `nearest` is made here at the encoder's size,
    which the native route then leaves as it is.
    """
    if rendering == "liif":
        return encode(image), "upscaled"
    if rendering == "nearest":
        image = image.resize((image_size_px, image_size_px), Image.Resampling.NEAREST)
    return encode(image), "native"
