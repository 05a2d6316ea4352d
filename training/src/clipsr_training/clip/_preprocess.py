"""From an image to the encoder's pixels, as the service and OpenCLIP do it; training and evaluation share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import Compose, Normalize

Preprocess = Callable[[Image.Image], Image.Image]


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
    def of(cls, config: Mapping[str, Any]) -> Fitting:
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
