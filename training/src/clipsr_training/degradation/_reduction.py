"""Reductions: how a program makes a small picture of a large one, with antialiasing or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image

Kernel = Literal["bicubic", "area", "lanczos", "bilinear", "aliased-bilinear", "aliased-bicubic", "nearest"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

_ANTIALIASED = {
    "bicubic": Image.Resampling.BICUBIC,
    "area": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    # Not antialiased, but Pillow's is the usual one: the pixel under each centre.
    "nearest": Image.Resampling.NEAREST,
}
# Of the cubic convolution kernel; OpenCV and PyTorch take -0.75.
_CUBIC_A = -0.75


def reduce(pixels: np.ndarray, size_hw: tuple[int, int], kernel: Kernel) -> np.ndarray:
    """Bring an image to a size; nothing is done to one that has it.

    `aliased-bilinear` and `aliased-bicubic` look at the two or four nearest pixels in each direction, however many lie
    between, as `cv2.resize` and `torch.nn.functional.interpolate` do by default; `nearest` looks at one. The others
    widen with the factor, as Pillow does.

    Args:
        pixels: RGB uint8 [H, W, 3].
        size_hw: rows and columns of the result.
        kernel: how.

    Raises:
        ValueError: a size is not positive.
    """
    if min(size_hw) < 1:
        raise ValueError(f"an image can't be reduced to {size_hw[0]}x{size_hw[1]} px")
    if pixels.shape[:2] == tuple(size_hw):
        return pixels
    if (resampling := _ANTIALIASED.get(kernel)) is not None:
        return np.asarray(Image.fromarray(pixels).resize((size_hw[1], size_hw[0]), resampling))
    taps = _bilinear_taps if kernel == "aliased-bilinear" else _cubic_taps
    values = pixels.astype(np.float32)
    index, weight = taps(pixels.shape[0], size_hw[0])
    values = np.einsum("ot,otwc->owc", weight, values[index])
    index, weight = taps(pixels.shape[1], size_hw[1])
    values = np.einsum("ot,rotc->roc", weight, values[:, index])
    return (np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def reduce_in_steps(pixels: np.ndarray, steps: Sequence[tuple[tuple[int, int], Kernel]]) -> np.ndarray:
    """Reduce again and again, rounding in between: a preview that becomes a thumbnail."""
    for size_hw, kernel in steps:
        pixels = reduce(pixels, size_hw, kernel)
    return pixels


def _positions(n_in: int, n_out: int) -> np.ndarray:
    """Return the positions of the output's pixel centres among the input's, [n_out]."""
    return (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5


def _bilinear_taps(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices [n_out, 2] and weights [n_out, 2]."""
    position = _positions(n_in, n_out)
    first = np.floor(position).astype(int)
    part = position - first
    index = np.clip(first[:, None] + np.arange(2), 0, n_in - 1)
    return index, np.stack((1 - part, part), axis=1).astype(np.float32)


def _cubic_taps(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices [n_out, 4] and weights [n_out, 4] of cubic convolution (Keys 1981)."""
    position = _positions(n_in, n_out)
    first = np.floor(position).astype(int) - 1
    index = np.clip(first[:, None] + np.arange(4), 0, n_in - 1)
    distance = np.abs(position[:, None] - (first[:, None] + np.arange(4)))
    a = _CUBIC_A
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return index, np.where(distance <= 1, near, far).astype(np.float32)
