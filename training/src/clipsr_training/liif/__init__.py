"""Learned continuous super-resolution: LIIF (Chen et al. 2021) and a fast latent-modulated decoder."""

from __future__ import annotations

from clipsr_training.liif._checkpoint import (
    BUNDLED_UPSCALER,
    UPSCALER_NAME,
    CheckpointFormatError,
    describe_upscaler,
    find_upscaler,
    load_liif,
    save_liif,
)
from clipsr_training.liif._grid import Box, full_box
from clipsr_training.liif._liif import LIIF
from clipsr_training.liif._modulated import ModulatedLIIF
from clipsr_training.liif._upscaler import Upscaler

__all__ = [
    "BUNDLED_UPSCALER",
    "LIIF",
    "UPSCALER_NAME",
    "Box",
    "CheckpointFormatError",
    "ModulatedLIIF",
    "Upscaler",
    "describe_upscaler",
    "find_upscaler",
    "full_box",
    "load_liif",
    "save_liif",
]
