"""Made pictures: colours, edges and textures that no calibration set has chosen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Patches a side of the colour fields: from two large areas to a texture of a few pixels.
_CELLS = (2, 3, 5, 8, 13, 21)
_SEED = 20_10


def make_pictures(count: int, side_px: int) -> npt.NDArray[np.uint8]:
    """Return pictures [count, 3, side_px, side_px], the same every time.

    In turn: smooth fields of colours, the same with hard edges, stripes in two colours, and a field with noise over it.
    """
    rng = np.random.default_rng(_SEED)
    pictures = [_picture(rng, i, side_px) for i in range(count)]
    return np.stack([np.clip(np.rint(picture), 0, 255).astype(np.uint8) for picture in pictures])


def _picture(rng: np.random.Generator, number: int, side_px: int) -> npt.NDArray[np.float64]:
    cells = _CELLS[number // 4 % len(_CELLS)]
    colours = rng.uniform(0, 255, (3, cells + 1, cells + 1))
    if number % 4 == 1:
        nearest = (np.arange(side_px) * (cells + 1)) // side_px
        return colours[:, nearest][:, :, nearest]
    if number % 4 == 2:
        rows, columns = np.mgrid[:side_px, :side_px] / side_px
        angle, phase = rng.uniform(0, np.pi, 2)
        wave = np.sin(2 * np.pi * cells * (rows * np.cos(angle) + columns * np.sin(angle)) + phase)
        first, second = colours[:, 0, 0, None, None], colours[:, 1, 1, None, None]
        return first + (second - first) * (wave + 1) / 2
    smooth = _interpolate(colours, side_px)
    return smooth + rng.normal(0, 25, smooth.shape) if number % 4 == 3 else smooth


def _interpolate(grid: npt.NDArray[np.float64], side_px: int) -> npt.NDArray[np.float64]:
    """Return a grid [3, n, n] at side_px by side_px, bilinear."""
    at = np.linspace(0, grid.shape[1] - 1, side_px)
    low = np.minimum(at.astype(int), grid.shape[1] - 2)
    part = at - low
    rows = grid[:, low] * (1 - part)[:, None] + grid[:, low + 1] * part[:, None]
    return rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
