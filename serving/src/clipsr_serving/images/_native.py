"""The native route: CLIP's own resize and crop, with Pillow alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsr_serving.images._fit import PAD, SQUASH

INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# Beyond this aspect ratio the ends are cut before resizing. A 1 x 60,000,000 px image would otherwise be resized to
# R x 60,000,000 R first; the filter reads at most 2 source pixels beyond the crop, so that 8:1 leaves the centre as is.
_MAX_ASPECT_RATIO = 8


def make_native_pixels(
    image: Image.Image, *, fit: str, image_size_px: int, interpolation: str = "bicubic", fill_color: int = 0
) -> NDArray[np.uint8]:
    """Prepare an image the way OpenCLIP does at inference.

    `center_crop`: the shorter side becomes R (antialiased), then the central R x R is cut. `squash`: R x R at once.
    `pad`: the longer side becomes R, borders fill the rest.

    Args:
        image: mode RGB.
        fit: `center_crop`, `squash` or `pad`: OpenCLIP's resize modes `shortest`, `squash` and `longest`.
        image_size_px: R.
        interpolation: `bicubic` or `bilinear`, the checkpoint's own.
        fill_color: grey level of the borders, the checkpoint's own.

    Returns:
        UINT8 [3, R, R] RGB, contiguous.

    Source: torchvision `Resize` and `CenterCrop` on Pillow images; open_clip `image_transform`.
    """
    resample = INTERPOLATIONS[interpolation]
    if fit == SQUASH:
        return _planar(image.resize((image_size_px, image_size_px), resample))
    if fit == PAD:
        return _planar(_pad(image, image_size_px, resample, fill_color))
    image = _cut_long_ends(image)
    width, height = image.size
    # torchvision truncates the longer side, and rounds the crop's offset half to even.
    if width <= height:
        resized = (image_size_px, int(image_size_px * height / width))
    else:
        resized = (int(image_size_px * width / height), image_size_px)
    left, top = (round((side - image_size_px) / 2) for side in resized)
    crop = (left, top, left + image_size_px, top + image_size_px)
    return _planar(image.resize(resized, resample).crop(crop))


def _pad(image: Image.Image, image_size_px: int, resample: Image.Resampling, fill_color: int) -> Image.Image:
    ratio = max(image.size) / image_size_px
    # OpenCLIP rounds half to even; a side that it would round to nothing stays one pixel.
    width, height = (max(1, round(side / ratio)) for side in image.size)
    square = Image.new("RGB", (image_size_px, image_size_px), (fill_color,) * 3)
    square.paste(image.resize((width, height), resample), ((image_size_px - width) // 2, (image_size_px - height) // 2))
    return square


def _cut_long_ends(image: Image.Image) -> Image.Image:
    width, height = image.size
    longest = _MAX_ASPECT_RATIO * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _planar(image: Image.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
