"""Contrastive language-image models in OpenCLIP's format: loading, training data, loss and training."""

from __future__ import annotations

from clipsr_training.clip._checkpoint import ClipCheckpoint, load_clip, load_open_clip, save_clip
from clipsr_training.clip._loss import multi_positive_contrastive_loss, multi_positive_sigmoid_loss

__all__ = [
    "ClipCheckpoint",
    "load_clip",
    "load_open_clip",
    "multi_positive_contrastive_loss",
    "multi_positive_sigmoid_loss",
    "save_clip",
]
