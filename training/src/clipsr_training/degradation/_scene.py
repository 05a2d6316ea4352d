"""Between the light and the lens: shadow, darkness, haze, rain and snow.

Each maps RGB float32 [H, W, 3] in [0, 1], a strength (0 mild to 1 severe) and a generator to the damaged image, not
clamped.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from clipsr_training.degradation._pixels import (
    FloatArray,
    convolve,
    lerp,
    line,
    path_kernel,
    shorter_side,
    size_of,
    smooth_noise,
)

# Of a streak of rain, in shorter sides; at least what a pixel shows.
_STREAK_WIDTH = 0.012
# Sides of flakes, in shorter sides: far, middle, near.
_FLAKES = (0.015, 0.03, 0.055)


def shadowed(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Cast a soft shadow over 10 to 60 % of the image.

    Source: the affine illumination model of Inoue and Yamasaki 2020 (SynShadow): dark = a (x - x1), x1 larger for red.
    """
    size = size_of(values)
    field = smooth_noise(rng, size, 3) if rng.random() < 0.5 else _half_plane(rng, size)
    inside = (field < np.quantile(field, rng.uniform(0.1, 0.6))).astype(np.float32)
    mask = ndimage.gaussian_filter(inside, 0.02 * shorter_side(values))[..., None]
    at_one = max(0.02, lerp(0.9, 0.1, strength))
    tint = rng.normal(0.05, 0.025)
    black = np.clip(rng.uniform(0, 0.25) + np.array([tint, 0, -tint]), 0, 0.5).astype(np.float32)
    dark = at_one * np.maximum(0, (values - black) / (1 - black))
    return values + mask * (dark - values)


def low_light(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Darken by b (a I)^γ and add the noise of a sensor that has little light.

    Source: the low-light model of Lv et al. 2019 (AGLLNet, arXiv 1908.00682).
    """
    gamma, b = lerp(1.5, 5, strength), lerp(1, 0.5, strength)
    sigma = lerp(0.005, 0.03, strength)
    dark = b * (rng.uniform(0.9, 1) * values) ** np.float32(gamma)
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    # Poisson's share grows with the light; the rest is read noise.
    return dark + noise * sigma * np.sqrt(0.5 + dark)


def hazy(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Mix in light from the air, I = J t + A (1 - t) with t = exp(-β d), farther away towards the top.

    Source: Koschmieder's model with the ranges of RESIDE (Li et al. 2019).
    """
    rows = values.shape[0]
    ramp = np.linspace(1, 0, rows, dtype=np.float32)[:, None]
    depth = 0.4 + 0.6 * (0.6 * ramp + 0.4 * smooth_noise(rng, size_of(values)))
    passed = np.exp(-lerp(0.6, 1.8, strength) * depth)[..., None]
    air = (rng.uniform(0.7, 1) + rng.uniform(-0.03, 0.03, 3)).astype(np.float32)
    return values * passed + air * (1 - passed)


def rainy(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Screen one to three layers of bright streaks over the image."""
    side = shorter_side(values)
    n_layers = int(rng.integers(1, 4))
    angle = np.pi / 2 + np.deg2rad(rng.uniform(-30, 30))
    cover, alpha = lerp(0.06, 0.36, strength) / n_layers, lerp(0.4, 0.9, strength)
    width_px = max(1.3, _STREAK_WIDTH * side)
    for _ in range(n_layers):
        length_px = rng.uniform(0.15, 0.4) * side
        n_streaks = cover * values[..., 0].size / (length_px * width_px)
        kernel = path_kernel(line(length_px, angle + np.deg2rad(rng.uniform(-4, 4))))
        # A line on pixels is wider than a pixel already.
        streaks = _scatter(rng, size_of(values), n_streaks, kernel, 0.4 * (width_px - 0.8))
        values = 1 - (1 - values) * (1 - alpha * streaks[..., None])
    return values


def snowy(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Lay flakes of three sizes and a white veil over the image."""
    side = shorter_side(values)
    angle = np.pi / 2 + np.deg2rad(rng.uniform(-50, 50))
    alpha, veil = rng.uniform(0.7, 1), lerp(0.02, 0.25, strength)
    cover = lerp(0.03, 0.16, strength)
    values = values + veil * (1 - values)
    for share in _FLAKES:
        size_px = max(1.0, share * side)
        motion = path_kernel(line(rng.uniform(0.2, 1) * 0.06 * side, angle + np.deg2rad(rng.uniform(-15, 15))))
        n_flakes = cover / len(_FLAKES) * values[..., 0].size / size_px**2
        flakes = _scatter(rng, size_of(values), n_flakes, motion, 0.4 * size_px)
        values = values + alpha * flakes[..., None] * (1 - values)
    return values


def _half_plane(rng: np.random.Generator, size_hw: tuple[int, int]) -> FloatArray:
    """Return [H, W] that grows in one direction, with one bend: the edge of a roof."""
    rows, columns = np.mgrid[0 : size_hw[0], 0 : size_hw[1]] / max(size_hw)
    one, two = rng.uniform(0, 2 * np.pi) + np.array([0, rng.uniform(-1, 1)])
    planes = [(rows - 0.5) * np.sin(angle) + (columns - 0.5) * np.cos(angle) for angle in (one, two)]
    return np.maximum(*planes)


def _scatter(
    rng: np.random.Generator, size_hw: tuple[int, int], expected: float, kernel: FloatArray, sigma_px: float
) -> FloatArray:
    """Return [H, W] in [0, 1]: copies of a kernel, softened, each of its own brightness, at random places."""
    points = np.zeros(size_hw, dtype=np.float32)
    n = rng.poisson(expected)
    rows, columns = (rng.integers(0, length, n) for length in size_hw)
    np.maximum.at(points, (rows, columns), rng.uniform(0.4, 1, n).astype(np.float32))
    soft = ndimage.gaussian_filter(np.pad(kernel, int(np.ceil(3 * sigma_px))), sigma_px)
    return np.clip(convolve(points, soft / soft.max()), 0, 1)
