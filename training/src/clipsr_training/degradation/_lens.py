"""At the lens: drops on the glass, and motion while the shutter is open. Signatures as in `_scene`."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from clipsr_training.degradation._pixels import FloatArray, convolve, lerp, line, path_kernel, shorter_side, size_of


def raindrop(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Put drops on the glass: each shows its surroundings upside down, reduced and out of focus.

    Source: the refraction of drops as in ROLE (von Bernuth et al. 2018), much simplified.
    """
    side = shorter_side(values)
    behind = ndimage.gaussian_filter(values, (0.02 * side, 0.02 * side, 0))
    result = values.copy()
    for _ in range(max(1, round(lerp(4, 12, strength)))):
        centre = rng.random(2) * size_of(values)
        radii = rng.uniform(0.05, 0.13, 2) * side
        top, left = np.maximum(0, np.floor(centre - radii - 1)).astype(int)
        bottom, right = np.minimum(size_of(values), np.ceil(centre + radii + 1)).astype(int)
        rows, columns = np.mgrid[top:bottom, left:right]
        offset = np.stack((rows - centre[0], columns - centre[1]))
        distance = np.hypot(*(offset / radii[:, None, None]))
        # About three radii of the scene are seen through one.
        source = centre[:, None, None] - rng.uniform(2, 4) * offset
        row, column = (np.clip(s, 0, n - 1).astype(int) for s, n in zip(source, size_of(values), strict=True))
        mask = np.clip((1 - distance) / 0.3, 0, 1)[..., None].astype(np.float32)
        # Darker towards the rim at the top, lighter at the bottom, as the sky is seen below.
        gain = rng.uniform(0.85, 1.1) + 0.15 * (offset[0] / radii[0])[..., None]
        patch = behind[row, column] * gain.astype(np.float32)
        result[top:bottom, left:right] += mask * (patch - result[top:bottom, left:right])
    return result


def motion_blurry(values: FloatArray, strength: float, rng: np.random.Generator) -> FloatArray:
    """Move the camera along a line, or (in 30 of 100 draws) along a path of two or three pieces."""
    length_px = lerp(0.06, 0.22, strength) * shorter_side(values)
    angle = rng.uniform(0, np.pi)
    if rng.random() >= 0.3:
        return convolve(values, path_kernel(line(length_px, angle)))
    n = int(rng.integers(2, 4))
    angles = angle + np.cumsum(rng.uniform(-1, 1, n))
    steps = length_px / n * np.stack((np.sin(angles), np.cos(angles)), axis=1)
    return convolve(values, path_kernel(np.concatenate((np.zeros((1, 2)), np.cumsum(steps, axis=0)))))
