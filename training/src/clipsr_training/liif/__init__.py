"""Learned continuous super-resolution: LIIF (Chen et al. 2021) and a fast latent-modulated decoder."""

from __future__ import annotations

from clipsr_training.liif._checkpoint import CheckpointFormatError, describe_upscaler, load_liif, save_liif
from clipsr_training.liif._grid import Box, full_box
from clipsr_training.liif._liif import LIIF
from clipsr_training.liif._modulated import ModulatedLIIF
from clipsr_training.liif._upscaler import Upscaler

__all__ = [
    "LIIF",
    "Box",
    "CheckpointFormatError",
    "ModulatedLIIF",
    "Upscaler",
    "describe_upscaler",
    "full_box",
    "load_liif",
    "save_liif",
]
