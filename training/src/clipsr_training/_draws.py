"""Training data by number.

What a run draws is a function of its seed and the number, so that a resumed run sees what an uninterrupted one sees.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from lightning import LightningModule
from torch.utils.data import DataLoader, Dataset

from clipsr_training._fit import deal_out
from clipsr_training.degradation import generator

_DrawT = TypeVar("_DrawT")
_BatchT = TypeVar("_BatchT")


class NumberedDraws(Dataset[_DrawT]):
    """Part of the draws of a run.

    Args:
        n_draws: length.
        first: number of the first draw, for a run that continues.
    """

    def __init__(self, n_draws: int, first: int) -> None:
        self.n_draws = n_draws
        self.first = first

    def __len__(self) -> int:
        """Return the number of draws."""
        return self.n_draws

    def __getitem__(self, index: int) -> _DrawT:
        """Return one draw."""
        if not 0 <= index < self.n_draws:
            raise IndexError(index)
        return self.draw(self.first + index)

    @abstractmethod
    def draw(self, number: int) -> _DrawT:
        """Return the draw of a number, a pure function of it."""


class PhotoOrder:
    """Which photo a draw is of: a function of the seed and the draw's number; every pass has an order of its own.

    Args:
        n_photos: how many there are.
        seed: of the orders.
        name: of the source, where there are several.
    """

    def __init__(self, n_photos: int, seed: int, name: str = "order") -> None:
        self.n_photos = n_photos
        self.seed = seed
        self.name = name
        self._pass: tuple[int, np.ndarray] | None = None

    def row(self, number: int) -> int:
        """Return the row of a draw's photo."""
        done, place = divmod(number, self.n_photos)
        if self._pass is None or self._pass[0] != done:
            self._pass = done, generator(self.seed, done, self.name).permutation(self.n_photos)
        return int(self._pass[1][place])


class SegmentPlan(Protocol):
    """What of a recipe says how many draws there are."""

    @property
    def batch_size(self) -> int:
        """Draws a step and device."""
        ...

    @property
    def steps(self) -> int:
        """Of the whole run."""
        ...


def segment_loader(
    module: LightningModule,
    plan: SegmentPlan,
    make: Callable[[int, int], NumberedDraws[_DrawT]],
    collate: Callable[[Sequence[_DrawT]], _BatchT],
    *,
    steps_per_segment: int,
    n_workers: int,
) -> DataLoader[_BatchT]:
    """Return the draws of the current segment, which Lightning calls an epoch, in batches.

    Args:
        module: what is trained.
        plan: how much is drawn.
        make: returns draws, by their number and that of the first.
        collate: makes a batch.
        steps_per_segment: steps between two checkpoints.
        n_workers: processes that draw; 0 draws in this one.
    """
    done = module.current_epoch * steps_per_segment
    per_step = plan.batch_size * module.trainer.world_size
    dataset = make(min(steps_per_segment, plan.steps - done) * per_step, done * per_step)
    return DataLoader(
        cast("Dataset[Any]", dataset),
        batch_size=plan.batch_size,
        sampler=deal_out(module, dataset),
        collate_fn=collate,
        num_workers=n_workers,
        # Sources hold open tables and functions.
        multiprocessing_context="fork" if n_workers else None,
    )
