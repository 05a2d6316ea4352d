"""What a degradation embedding is compared with: directions that stand for the kinds of damage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._embeddings import embed_texts

# Words closer than this are one to the text tower; two of the bundled model have .98.
_TOLD_APART = 0.95


def embed_kinds(checkpoint: ClipCheckpoint, kinds: Sequence[str]) -> Tensor:
    """Return unit text embeddings [C, D] of the kinds' names as they are, without a prompt, as DA-CLIP takes them."""
    return embed_texts(checkpoint, kinds) if kinds else torch.zeros(0, checkpoint.embed_dim)


def nearest_pair(directions: Tensor) -> tuple[float, int, int]:
    """Return the largest cosine between two of the directions [C, D], and which two have it."""
    cosines = directions @ directions.T
    cosines.fill_diagonal_(-1)
    flat = int(cosines.argmax())
    return float(cosines.max()), *divmod(flat, len(directions))


def first_prototypes(checkpoint: ClipCheckpoint, kinds: Sequence[str]) -> Tensor:
    """Return directions [C, D] to start from: the kinds' texts where the text tower tells them apart, else random."""
    texts = embed_kinds(checkpoint, kinds)
    if nearest_pair(texts)[0] <= _TOLD_APART:
        return texts
    return functional.normalize(torch.randn(texts.shape), dim=-1)


def require_told_apart(directions: Tensor, kinds: Sequence[str]) -> None:
    """Check that texts can serve as targets.

    Raises:
        ValueError: the text tower takes two of the kinds for one.
    """
    cosine, one, two = nearest_pair(directions)
    if cosine > _TOLD_APART:
        raise ValueError(
            f"the model's texts {kinds[one]!r} and {kinds[two]!r} have a cosine of {cosine:.3f}, too close to tell "
            "pictures apart by; use the recipe distill, which learns what stands for each kind"
        )
