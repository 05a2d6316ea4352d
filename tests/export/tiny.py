"""Untrained models as small as they can be, for exports that take seconds."""

from __future__ import annotations

import torch
from torch import nn

# Before open_clip: it imports torchvision, which needs the package's cure first.
import clipsr_training
from clipsr_training.clip._checkpoint import ClipCheckpoint, build_clip
from clipsr_training.degradation import KINDS
from clipsr_training.liif import ModulatedLIIF
from clipsr_training.liif._encoders import EDSR
from clipsr_training.restoration import ConditionalUNet, Restorer, Schedule, UNetConfig

assert clipsr_training.__version__

# R, D and L.
SIZE_PX, EMBED_DIM, CONTEXT = 32, 48, 16


def make_clip() -> ClipCheckpoint:
    """A transformer of one layer for images and one for texts."""
    torch.manual_seed(0)
    vision = {"image_size": SIZE_PX, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    preprocess = {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.25, 0.27], "interpolation": "bicubic"}
    config = {
        "model_cfg": {"embed_dim": EMBED_DIM, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": preprocess,
    }
    checkpoint = build_clip(config)
    checkpoint.model.eval()
    return checkpoint


def make_upscaler() -> ModulatedLIIF:
    """One block of eight features."""
    torch.manual_seed(0)
    return ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval()


def make_restorer(context_dim: int | None = len(KINDS)) -> Restorer:
    """Two levels of 32 features."""
    torch.manual_seed(0)
    config = UNetConfig(width=32, multipliers=(1, 1), context_dim=context_dim, has_bottom_transformer=False)
    restorer = Restorer(ConditionalUNet(config), Schedule(), "residual", None if context_dim is None else "kinds")
    for parameter in restorer.parameters():  # attention starts with zeros, which would hide it
        nn.init.normal_(parameter, std=0.05)
    return restorer.eval()
