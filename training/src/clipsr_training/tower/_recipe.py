"""Hyperparameters of an image tower's training."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr_training._bounds import LARGEST, check_bounds, check_draws, check_part

_BOUNDS = (
    (("draws", "batch_size", "max_held_out"), 1, LARGEST),
    (("lr", "head_lr", "weight_decay", "replay_weight", "embedding_weight"), 0, LARGEST),
    (("warmup", "small_share", "damaged_share", "upscaled_share"), 0, 1),
)


@dataclass(frozen=True, kw_only=True)
class TowerRecipe:
    """How an image tower is trained.

    Attributes:
        draws: pictures of the whole run.
        batch_size: pictures a step and device.
        lr: peak learning rate of AdamW.
        head_lr: likewise of the projection and the scale.
        weight_decay: on weights of two and more dimensions.
        warmup: part of the run in which the rates rise linearly; after it they fall linearly to zero.
        replay_weight: of the divergence from what the replayed model says of the undamaged picture.
        embedding_weight: of 1 - the cosine to the replayed model's embedding of the undamaged picture, brought into the
            texts' space.
        small_share: part of the pictures that are reduced and saved as programs do.
        damaged_share: part of them that one of the ten degradations damages; the rest is as it is.
        upscaled_share: part of them that super-resolution renders; the others are resized.
        hold_out: leave out everything that `prompts.is_held_out` says is held out, to measure untaught names.
        held_out: part of each source that is kept off training, to report what was learned.
        max_held_out: at most so many pictures of a source.
    """

    draws: int = 600_000
    batch_size: int = 64
    lr: float = 3e-4
    head_lr: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.05
    replay_weight: float = 0.5
    embedding_weight: float = 0.0
    small_share: float = 0.4
    damaged_share: float = 0.25
    upscaled_share: float = 0.5
    hold_out: bool = False
    held_out: float = 0.02
    max_held_out: int = 300

    def __post_init__(self) -> None:
        check_bounds(self, _BOUNDS)
        check_draws(self.draws, self.batch_size)
        check_part("held_out", self.held_out)
        if self.small_share + self.damaged_share > 1:
            raise ValueError("small_share and damaged_share are parts of one whole, and exceed it together")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.draws // self.batch_size
