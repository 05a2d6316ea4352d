"""What the degradations share: levels and fractions, smooth noise, and convolution with small kernels."""

from __future__ import annotations

import numpy as np
from scipy import fft, ndimage

FloatArray = np.ndarray


def to_float(pixels: np.ndarray) -> FloatArray:
    """Map uint8 to float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def to_uint8(values: FloatArray) -> np.ndarray:
    """Map [0, 1] to uint8: rounded, and clamped."""
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)


def shorter_side(pixels: np.ndarray) -> int:
    """Return s, the length that all lengths are parts of."""
    return min(pixels.shape[:2])


def size_of(pixels: np.ndarray) -> tuple[int, int]:
    """Return rows and columns."""
    return pixels.shape[0], pixels.shape[1]


def lerp(mild: float, severe: float, strength: float) -> float:
    """Return the parameter at a strength: `mild` at 0, `severe` at 1, beyond it above 1."""
    return mild + (severe - mild) * strength


def convolve(values: FloatArray, kernel: FloatArray) -> FloatArray:
    """Convolve [H, W] or [H, W, C] with a kernel of odd sides, edges replicated."""
    above, left = (n // 2 for n in kernel.shape)
    padding = [(above, above), (left, left)] + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, padding, mode="edge")
    size = [fft.next_fast_len(n, real=True) for n in padded.shape[:2]]
    spectrum = np.asarray(fft.rfft2(padded, size, axes=(0, 1)))
    response = np.asarray(fft.rfft2(kernel.astype(np.float32), size))
    response = response.reshape(*response.shape, *[1] * (values.ndim - 2))
    full = np.asarray(fft.irfft2(spectrum * response, size, axes=(0, 1)))
    rows, columns = values.shape[:2]
    return full[2 * above : 2 * above + rows, 2 * left : 2 * left + columns].astype(np.float32)


def path_kernel(points: FloatArray) -> FloatArray:
    """Return the kernel of a point that moves along a path at a constant speed.

    Args:
        points: [P, 2] row and column of the path's corners in pixels.

    Returns:
        [K, K] of sum 1, K odd; the path's centre of mass in the middle.
    """
    steps = np.diff(points, axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    # Four samples a pixel: the kernel is then smooth along the path.
    counts = np.maximum(2, np.ceil(4 * lengths)).astype(int)
    parts = [points[i] + np.linspace(0, 1, n)[:, None] * steps[i] for i, n in enumerate(counts)]
    path = np.concatenate(parts)
    path = path - path.mean(axis=0)
    reach = int(np.ceil(np.abs(path).max())) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.float32)
    corner = np.floor(path).astype(int)
    part = path - corner
    for row in (0, 1):
        for column in (0, 1):
            weight = np.abs(1 - row - part[:, 0]) * np.abs(1 - column - part[:, 1])
            np.add.at(kernel, (corner[:, 0] + row + reach, corner[:, 1] + column + reach), weight)
    return kernel / kernel.sum()


def line(length_px: float, angle: float) -> FloatArray:
    """Return the corners [2, 2] of a straight path; angle in radians, 0 along the columns."""
    return np.array([[0.0, 0.0], [length_px * np.sin(angle), length_px * np.cos(angle)]])


def smooth_noise(rng: np.random.Generator, size_hw: tuple[int, int], n_cells: int = 4) -> FloatArray:
    """Return [H, W] in [0, 1] that varies slowly: a coarse grid, enlarged by cubic splines."""
    grid = rng.random((n_cells, n_cells))
    zoomed = np.asarray(ndimage.zoom(grid, [n / n_cells for n in size_hw], order=3, mode="nearest", grid_mode=True))
    spread = float(np.ptp(zoomed))
    return ((zoomed - zoomed.min()) / (spread or 1.0)).astype(np.float32)
