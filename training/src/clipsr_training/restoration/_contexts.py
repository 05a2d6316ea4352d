"""Conditioning of a restorer: one context for the content, one for the degradation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from clipsr_training.degradation import CLEAN, KINDS, Kind
from clipsr_training.restoration._restorer import Contexts, Restorer

ContextName = Literal["none", "kinds"]
CONTEXT_NAMES: tuple[ContextName, ...] = get_args(ContextName)


class ContextSource(Protocol):
    """Makes the contexts of pictures.

    Attributes:
        name: what a restorer's file says of its contexts.
        dim: D, numbers of each.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def embed(self, lq: Tensor, kinds: Tensor) -> Contexts:
        """Return both contexts [B, D].

        Args:
            lq: [B, 3, H, W] damaged pictures, uint8.
            kinds: [B, K] kinds of damage of each, see `share_kinds`; for sources that need them.
        """
        ...


class KindContexts:
    """The kinds of damage themselves, as probabilities: a user's choice, or the answer of a classifier.

    They describe no content: both contexts are the same numbers.
    """

    name = "kinds"
    dim = len(KINDS)

    def embed(self, lq: Tensor, kinds: Tensor) -> Contexts:
        """Return the kinds twice."""
        del lq
        return kinds, kinds


def share_kinds(kinds: Sequence[Kind] | None) -> np.ndarray:
    """Return float32 [K]: equal shares for the kinds of damage, all `clean` for none, zeros where they are unknown."""
    shares = np.zeros(len(KINDS), dtype=np.float32)
    if kinds is None:
        return shares
    for kind in kinds or (CLEAN,):
        shares[KINDS.index(kind)] += 1
    return shares / shares.sum()


def open_contexts(name: ContextName) -> ContextSource | None:
    """Return the source of a name; None for a restorer without contexts."""
    return KindContexts() if name == "kinds" else None


def contexts_of(restorer: Restorer) -> ContextSource | None:
    """Return the source that a restorer was trained with.

    Raises:
        ValueError: its contexts come from a model that is not part of its file.
    """
    if restorer.contexts is None:
        return None
    if restorer.contexts != KindContexts.name:
        raise ValueError(
            f"this restorer takes contexts of {restorer.contexts!r}, which its file does not hold; known: "
            f"{KindContexts.name}, or none"
        )
    return KindContexts()


def embed_kinds(source: ContextSource | None, lq: Tensor, kinds: np.ndarray) -> Contexts | None:
    """Return the contexts [B, D] of pictures with these kinds [B, K]; None where the restorer takes none."""
    return None if source is None else source.embed(lq, torch.from_numpy(kinds).to(lq.device))
