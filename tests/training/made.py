"""Photos and models that tests of training make: small enough to train on in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipsr_training.clip import save_clip
from clipsr_training.clip._checkpoint import build_clip, bundled_config
from clipsr_training.liif import ModulatedLIIF, save_liif
from clipsr_training.liif._encoders import EDSR


def write_photos(
    folder: Path, n: int, size_wh: tuple[int, int], *, cells_hw: tuple[int, int] = (4, 5), seed: int = 0
) -> Path:
    """Write smooth photos: random cells, enlarged."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (*cells_hw, 3), dtype=np.uint8))
        small.resize(size_wh, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def write_clip(folder: Path) -> Path:
    """Write an untrained CLIP model of 64 px."""
    torch.manual_seed(0)
    checkpoint = build_clip(bundled_config("clipsr-small"))
    checkpoint.model.eval()
    return save_clip(checkpoint, folder)


def write_upscaler(path: Path) -> Path:
    """Write an untrained upscaler, a hundredth of the shipped one."""
    torch.manual_seed(0)
    save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=4), latent_dim=8, hidden_dim=4), path)
    return path
