"""Hyperparameters of a restorer's training."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr_training._bounds import LARGEST, check_bounds, check_draws, check_part
from clipsr_training.restoration._contexts import CONTEXT_NAMES, ContextName
from clipsr_training.restoration._unet import UNetConfig

_BOUNDS = (
    (("draws", "batch_size", "max_held_out", "scale_max"), 1, LARGEST),
    (("lr",), 0, LARGEST),
    (("clean_share", "two_share", "last_time_share", "context_dropout"), 0, 1),
)


@dataclass(frozen=True, kw_only=True)
class RestorerRecipe:
    """How a restorer is trained.

    Attributes:
        contexts: what both contexts are made of: see `open_contexts`.
        width: channels of the network at full size.
        multipliers: of the width, at each level.
        draws: pictures of the whole run.
        batch_size: pictures a step.
        lr: peak learning rate of AdamW.
        side_px: of the pictures; smaller sources give smaller ones.
        scale_max: pictures are cut from sources at scales from 1 to this, and reduced.
        clean_share: part of the draws that is not damaged.
        two_share: part that is damaged in two ways; the rest in one.
        last_time_share: part that is shown at T, where sampling begins.
        context_dropout: part whose kinds of damage the network is not told, so that it restores without as well.
        held_out: part of the sources that is kept off training, to measure on.
        max_held_out: at most so many pictures.
    """

    contexts: ContextName = "none"
    width: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    draws: int = 240_000
    batch_size: int = 16
    lr: float = 5e-4
    side_px: int = 64
    scale_max: float = 4.0
    clean_share: float = 0.1
    two_share: float = 0.2
    last_time_share: float = 0.5
    context_dropout: float = 0.1
    held_out: float = 0.05
    max_held_out: int = 64

    def __post_init__(self) -> None:
        if self.contexts not in CONTEXT_NAMES:
            raise ValueError(f"unknown contexts {self.contexts!r}; known: {', '.join(CONTEXT_NAMES)}")
        check_bounds(self, _BOUNDS)
        check_draws(self.draws, self.batch_size)
        check_part("held_out", self.held_out)
        if self.side_px < 16 or self.side_px % 8:
            raise ValueError(f"side_px must be a multiple of 8 of at least 16, got {self.side_px}")
        if self.clean_share + self.two_share > 1:
            raise ValueError("clean_share and two_share are parts of one whole, and exceed it together")
        self.network(None)  # sizes that no network has

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run on one device."""
        return self.draws // self.batch_size

    def network(self, context_dim: int | None) -> UNetConfig:
        """Return the network's sizes: self-attention in the middle only, contexts folded."""
        return UNetConfig(
            width=self.width,
            multipliers=self.multipliers,
            context_dim=context_dim,
            has_bottom_transformer=False,
            is_folded=True,
        )
