"""How small and damaged pictures come about: reductions, the ten degradations of the literature, files, chains of them.

Pure functions on RGB uint8 [H, W, 3], with numpy, scipy and Pillow alone. Lengths are parts of the shorter side, never
pixels. Every random draw is a function of (seed, image number, kind): see `generator`.
"""

from __future__ import annotations

from clipsr_training.degradation._chain import (
    SMALLEST_PX,
    Chain,
    Thumbnail,
    apply_chain,
    draw_side,
    draw_thumbnail,
    make_thumbnail,
)
from clipsr_training.degradation._files import FileFormat, read_pixels, save, write_pixels
from clipsr_training.degradation._kinds import (
    BEYOND,
    CLEAN,
    DEGRADATIONS,
    KINDS,
    SEVERITIES,
    Kind,
    degrade,
    strength_of,
)
from clipsr_training.degradation._random import generator
from clipsr_training.degradation._reduction import KERNELS, Kernel, reduce, reduce_in_steps

__all__ = [
    "BEYOND",
    "CLEAN",
    "DEGRADATIONS",
    "KERNELS",
    "KINDS",
    "SEVERITIES",
    "SMALLEST_PX",
    "Chain",
    "FileFormat",
    "Kernel",
    "Kind",
    "Thumbnail",
    "apply_chain",
    "degrade",
    "draw_side",
    "draw_thumbnail",
    "generator",
    "make_thumbnail",
    "read_pixels",
    "reduce",
    "reduce_in_steps",
    "save",
    "strength_of",
    "write_pixels",
]
