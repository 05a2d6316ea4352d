"""Random draws that can be repeated one by one."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, image: int, kind: str) -> np.random.Generator:
    """Return the generator of one draw: a function of its arguments, whatever was drawn before.

    Args:
        seed: of the run, not negative.
        image: number of the image, or of the draw, not negative.
        kind: what is drawn; draws of different kinds are independent.
    """
    return np.random.default_rng((seed, image, zlib.crc32(kind.encode())))
