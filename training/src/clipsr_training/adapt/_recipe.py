"""Hyperparameters of adaptation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from clipsr_training._bounds import LARGEST, check_bounds, check_draws, check_part

Tune = Literal["upscaler", "tower"]
TUNES: tuple[Tune, ...] = get_args(Tune)
_BOUNDS = (
    (("draws", "batch_size", "max_held_out", "interpolation_steps", "scale_max"), 1, LARGEST),
    (("lr", "tower_lr", "pixel_weight"), 0, LARGEST),
    # Noise is drawn from one level on; above half the range there is nothing left to see.
    (("max_noise",), 1, 128),
    (("damaged_share",), 0, 1),
)


@dataclass(frozen=True, kw_only=True)
class AdaptRecipe:
    """How a model is adapted.

    Attributes:
        tune: what changes: the upscaler alone, or the image tower as well.
        draws: thumbnails of the whole run.
        batch_size: thumbnails a step.
        lr: peak learning rate of the upscaler's AdamW.
        tower_lr: likewise of the image tower's.
        tower_part: part of the run after which it is decided how much of the tower's change is kept; the rest fits the
            upscaler to that tower.
        scale_max: largest scale that the upscaler is told apart from larger ones; never below the upscaler's own.
        pixel_weight: weight of the mean absolute pixel error after the first fifth of the run, where it is 1.
        teacher_side_px: show the teacher the photo reduced to this side and rendered by the upscaler as it was, for
            towers that were trained on such pictures; None shows it the photo by the native route.
        teacher_both_routes: ask the teacher about the reduced photo by the native route, too, and teach the mean.
        max_noise: largest standard deviation of the thumbnails' noise, in levels of 255.
        damaged_share: part of the thumbnails that one of the ten degradations damages as well.
        held_out: part of the photos that is kept off training, to choose weights by.
        max_held_out: at most so many photos.
        interpolation_steps: steps between the tower as it was and as it ended that are tried, largest change first.
        max_disagreement: part of the undamaged held-out photos whose best anchor a changed tower may change.
    """

    tune: Tune = "upscaler"
    draws: int = 50_000
    batch_size: int = 32
    lr: float = 1e-3
    tower_lr: float = 1e-5
    tower_part: float = 0.6
    scale_max: float = 16.0
    pixel_weight: float = 0.1
    teacher_side_px: int | None = None
    teacher_both_routes: bool = False
    max_noise: float = 6.0
    damaged_share: float = 0.0
    held_out: float = 0.05
    max_held_out: int = 500
    interpolation_steps: int = 10
    max_disagreement: float = 0.02

    def __post_init__(self) -> None:
        check_bounds(self, _BOUNDS)
        check_draws(self.draws, self.batch_size)
        check_part("held_out", self.held_out)
        check_part("tower_part", self.tower_part)
        if self.teacher_both_routes and self.teacher_side_px is None:
            raise ValueError("both routes of the teacher start from a reduced photo: say its side with --teacher-side")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run on one device."""
        return self.draws // self.batch_size
