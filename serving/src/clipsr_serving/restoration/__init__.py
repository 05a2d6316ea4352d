"""Restoration of whole pictures: the sampler, tiles for large pictures, and noise that can be repeated."""

from __future__ import annotations

from clipsr_serving.restoration._sampler import SamplerSettings, Step, read_sampler, restore
from clipsr_serving.restoration._tiles import Tile, Tiling

__all__ = ["SamplerSettings", "Step", "Tile", "Tiling", "read_sampler", "restore"]
