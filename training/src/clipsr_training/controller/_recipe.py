"""Hyperparameters of a controller's training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clipsr_training._bounds import LARGEST, check_bounds, check_draws, check_part
from clipsr_training.degradation import CLEAN, DEGRADATIONS, Kind

Objective = Literal["distill", "daclip"]
_BOUNDS = (
    (("draws", "batch_size", "max_held_out"), 1, LARGEST),
    (("lr", "connection_lr", "weight_decay", "kind_weight"), 0, LARGEST),
    (("warmup", "clean_share", "double_share"), 0, 1),
)


@dataclass(frozen=True, kw_only=True)
class ControllerRecipe:
    """How a controller is trained.

    Attributes:
        objective: "distill" needs no captions: the embedding and the softened text probabilities of the undamaged
            picture, and learned prototypes of the kinds. "daclip" is the paper's: two contrastive terms, of pictures
            with captions and of damage with its name.
        kinds: of damage that is drawn, beside `clean`.
        draws: pictures of the whole run.
        batch_size: pictures a step and device.
        lr: peak learning rate of AdamW for the copy of the tower.
        connection_lr: likewise for connections, prototypes and scale, which begin with nothing.
        weight_decay: on weights of two and more dimensions.
        warmup: part of the run in which the rates rise linearly; after it they fall linearly to zero.
        clean_share: part of the pictures that stay undamaged.
        double_share: part of the pictures that are damaged in two ways; the others in one.
        kind_weight: of the cross-entropy over the kinds, in "distill".
        held_out: part of the pictures that is kept off training, to report what was learned.
        max_held_out: at most so many.
    """

    objective: Objective = "distill"
    kinds: tuple[Kind, ...] = DEGRADATIONS
    draws: int = 50_000
    batch_size: int = 32
    lr: float = 3e-4
    connection_lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    clean_share: float = 0.15
    double_share: float = 0.2
    kind_weight: float = 1.0
    held_out: float = 0.05
    max_held_out: int = 500

    def __post_init__(self) -> None:
        check_bounds(self, _BOUNDS)
        check_draws(self.draws, self.batch_size)
        check_part("held_out", self.held_out)
        if self.clean_share + self.double_share > 1:
            raise ValueError("clean_share and double_share are parts of one whole, and exceed it together")
        if not self.kinds or len(set(self.kinds)) != len(self.kinds) or CLEAN in self.kinds:
            raise ValueError(f"name one kind of damage or more, each once, without {CLEAN}: got {self.kinds}")

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.draws // self.batch_size

    @property
    def all_kinds(self) -> tuple[Kind, ...]:
        """What the controller tells apart."""
        return (*self.kinds, CLEAN)


# The paper's rate (DA-CLIP, appendix A: 3e-5 at a batch of 784) for everything.
RECIPES: dict[str, ControllerRecipe] = {
    "distill": ControllerRecipe(),
    "daclip": ControllerRecipe(objective="daclip", lr=3e-5, connection_lr=3e-5),
}
