"""Unit embeddings of texts and of pictures that are tensors already."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clipsr_training.clip._checkpoint import ClipCheckpoint

_TEXT_BATCH = 256


@torch.no_grad()
def embed_texts(clip: ClipCheckpoint, texts: Sequence[str]) -> Tensor:
    """Return unit embeddings [N, D] of texts."""
    parts = [
        clip.encode_text(clip.tokenizer(list(texts[i : i + _TEXT_BATCH]))) for i in range(0, len(texts), _TEXT_BATCH)
    ]
    return functional.normalize(torch.cat(parts).float(), dim=-1)


def embed_pictures(clip: ClipCheckpoint, pictures: Tensor) -> Tensor:
    """Return unit embeddings [B, D] of RGB pictures [B, 3, R, R] in [0, 1], differentiable in the pictures."""
    mean = torch.tensor(clip.mean)[:, None, None]
    std = torch.tensor(clip.std)[:, None, None]
    return functional.normalize(clip.encode_image((pictures - mean) / std).float(), dim=-1)


def freeze(clip: ClipCheckpoint) -> None:
    """Prepare a model for gradients of pictures: its weights take none, and are laid out for fast convolutions."""
    clip.model.requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
