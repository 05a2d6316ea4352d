"""Recipes: a few bounded photographic parameters, how a photo looks with them, and their JSON.

Every parameter is 0 where it changes nothing. All are smooth and global, or follow the distance from the photo's
centre: no value of theirs draws a pattern.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

TONES = ("blacks", "shadows", "midtones", "highlights", "whites")
BOUNDS: Mapping[str, float] = MappingProxyType(
    {
        "exposure": 2.0,  # stops
        "temperature": 1.0,  # stops between red and blue; warmer is positive
        "tint": 0.5,  # stops of green against the others; magenta is positive
        "contrast": 1.0,  # doublings of the slope at mid-grey
        "saturation": 1.0,  # part by which colours depart more from grey
        # Control points of the tone curve: at less than half their distance it rises everywhere.
        **dict.fromkeys(TONES, 0.12),
        "vignette": 1.5,  # stops lost in the corners
        "sharpness": 1.0,  # part of the finest detail added; blur is negative
        "clarity": 1.0,  # part of coarser detail added; blur is negative
    }
)
"""By name, how far a parameter goes in either direction."""

_RADII = {"sharpness": 0.01, "clarity": 0.03}  # standard deviations, as parts of the shorter side
_REACH = 3  # of a blur's kernel, in standard deviations
_STRIP_ROWS = 256  # a power of 2: strips begin where cells of a coarser grid do
_LUMA = (0.2126, 0.7152, 0.0722)  # source: ITU-R BT.709
_SMALLEST = 1e-6  # the slope of a root is infinite at 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Values of parameters; those that are absent are 0.

    Attributes:
        values: by names of `BOUNDS`, each within its bound.
    """

    values: Mapping[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if name not in BOUNDS:
                raise ValueError(f"no parameter {name!r}; known: {', '.join(BOUNDS)}")
            # NaN is in no order with the bounds.
            if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= BOUNDS[name]:
                raise ValueError(f"{name} must be from {-BOUNDS[name]} to {BOUNDS[name]}, got {value!r}")

    def to_mapping(self) -> dict[str, float]:
        """Return all parameters, rounded to what can be seen."""
        return {name: round(float(self.values.get(name, 0)), 4) for name in BOUNDS}

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read the member `parameters` of a recipe's JSON; ValueError for anything else."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is no JSON: {error}") from error
        values = content.get("parameters") if isinstance(content, dict) else None
        if not isinstance(values, dict):
            raise ValueError('it has no object "parameters"')
        return cls(values=cast("dict[str, Any]", values))

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Edit a photo [H, W, 3] of RGB uint8 at its own resolution, in strips, so that memory follows its width."""
        height, width = pixels.shape[:2]
        side = min(height, width)
        radius = radii(height, width)
        values = {name: torch.tensor(float(value)) for name, value in self.values.items() if value}
        halo = _reach(side)
        edited = np.empty_like(pixels)
        for top in range(0, height, _STRIP_ROWS):
            first, last = max(0, top - halo), min(height, top + _STRIP_ROWS + halo)
            strip = torch.from_numpy(pixels[first:last].astype(np.float32)).permute(2, 0, 1) / 255
            with torch.no_grad():
                changed = render(strip, values, radius[first:last], side)[:, top - first :][:, :_STRIP_ROWS]
            edited[top : top + _STRIP_ROWS] = (changed * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return edited


def radii(height: int, width: int) -> Tensor:
    """Return the distance [H, W] of pixels from the centre, 1 in the corners."""
    y = torch.arange(height) + 0.5 - height / 2
    x = torch.arange(width) + 0.5 - width / 2
    return torch.hypot(y[:, None], x[None]) / (np.hypot(height, width) / 2)


def render(picture: Tensor, values: Mapping[str, Tensor], radius: Tensor, side: int) -> Tensor:
    """Edit a picture.

    Args:
        picture: [3, H, W] sRGB in [0, 1].
        values: scalars by names of `BOUNDS`; those that are absent change nothing.
        radius: [H, W] distance from the centre of the whole photo; see `radii`.
        side: shorter side of the whole photo in pixels, of which radii of blur are parts.

    Returns:
        sRGB [3, H, W] in [0, 1], differentiable in the values.
    """
    picture = _to_srgb(_to_linear(picture) * _gains(values, radius))
    picture = _contrast(picture, values)
    if any(name in values for name in TONES):
        picture = _tone_curve(picture, values)
    if "saturation" in values:
        grey = (picture * torch.tensor(_LUMA)[:, None, None]).sum(0)
        picture = grey + (1 + values["saturation"]) * (picture - grey)
    details = [
        values[name] * (picture - _blurred(picture, part * side)) for name, part in _RADII.items() if name in values
    ]
    return sum(details, picture).clamp(0, 1)


def _gains(values: Mapping[str, Tensor], radius: Tensor) -> Tensor:
    """Return the factors [3, H, W] on linear light."""
    zero = torch.zeros(())
    exposure, temperature, tint, vignette = (
        values.get(name, zero) for name in ("exposure", "temperature", "tint", "vignette")
    )
    stops = torch.stack([exposure + temperature / 2, exposure - tint, exposure - temperature / 2])
    return 2 ** (stops[:, None, None] - vignette * radius.square())


def _contrast(picture: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Bend [0, 1] onto itself by an S that keeps 0, 1/2 and 1, with this slope in its middle.

    Source: the rational S x^a / (x^a + (1 - x)^a), whose slope at 1/2 is a.
    """
    if "contrast" not in values:
        return picture
    power = 2 ** values["contrast"]
    light, dark = picture.clamp(_SMALLEST, 1) ** power, (1 - picture).clamp(_SMALLEST, 1) ** power
    return light / (light + dark)


def _tone_curve(picture: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Add a curve of Bernstein polynomials: increasing control points make an increasing curve."""
    degree = len(TONES) - 1
    offset = sum(
        values[name] * float(math.comb(degree, i)) * picture**i * (1 - picture) ** (degree - i)
        for i, name in enumerate(TONES)
        if name in values
    )
    return (picture + offset).clamp(0, 1)


def _reach(side: int) -> int:
    """Return how many rows away a pixel can matter, in whole cells of every blur."""
    return math.ceil((_REACH + 1) * max(_RADII.values()) * side / _STRIP_ROWS) * _STRIP_ROWS


def _blurred(picture: Tensor, sigma: float) -> Tensor:
    """Blur [3, H, W] with a Gaussian, a wide one on a coarser grid; edges are continued."""
    cell = min(_STRIP_ROWS, 2 ** max(0, math.floor(math.log2(sigma / 2))))
    height, width = picture.shape[1:]
    whole = functional.pad(picture[None], (0, -width % cell, 0, -height % cell), mode="replicate")
    reach = max(1, math.ceil(_REACH * sigma / cell))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) * cell / sigma).square())
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = functional.pad(functional.avg_pool2d(whole, cell), (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, kernel[:, :, :, None], groups=3)
    coarse = functional.conv2d(rows, kernel[:, :, None], groups=3)
    return functional.interpolate(coarse, scale_factor=cell, mode="bilinear")[0, :, :height, :width]


def _to_linear(srgb: Tensor) -> Tensor:
    """Source: IEC 61966-2-1."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def _to_srgb(linear: Tensor) -> Tensor:
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
