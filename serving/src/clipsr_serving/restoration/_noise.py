"""Noise as a function of seed and pixel: tiles of one picture agree where they overlap."""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
# Of SplitMix64 (Steele, Lea and Flood 2014): the step of its counter and the factors of its finalizer.
_GAMMA = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_CHANNELS = 3


def pixel_noise(seed: int, draw: int, size_hw: tuple[int, int], offset: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return standard normal noise, a pure function of its arguments and of each pixel's place.

    Args:
        seed: of the run, not negative.
        draw: which of the run's noises: 0 for the first state, then the number of the step.
        size_hw: rows and columns.
        offset: row and column of the first pixel in the whole picture.

    Returns:
        [3, H, W] float32. Two regions of one picture agree where they overlap.
    """
    top, left = offset
    key = _mix_one(_mix_one(seed) + draw)
    rows = _mix(_counters(key, top, size_hw[0]))
    places = _mix(rows[:, None] + _counters(0, left, size_hw[1]))
    bits = _mix(places + _counters(0, 0, _CHANNELS)[:, None, None])
    # Two halves of the bits are two uniform numbers, neither of them 0 (Box and Muller 1958).
    radius, angle = ((half + 0.5) / 2**32 for half in (bits >> np.uint64(32), bits & np.uint64(0xFFFFFFFF)))
    return (np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)).astype(np.float32)


def _counters(key: int, first: int, n: int) -> np.ndarray:
    numbers = np.arange(first + 1, first + n + 1, dtype=np.uint64)
    return np.uint64(key) + numbers * np.uint64(_GAMMA)


def _mix(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FACTORS[0])
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_FACTORS[1])
    return values ^ (values >> np.uint64(31))


def _mix_one(value: int) -> int:
    return int(_mix(np.array([(value + _GAMMA) & _MASK], dtype=np.uint64))[0])
