"""Pictures as people have them: as they are, small and saved again, or damaged; by either route to the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipsr_training._draws import NumberedDraws, PhotoOrder
from clipsr_training.adapt._photos import CANVAS_SIZES_PX
from clipsr_training.clip._preprocess import Preprocess, planar
from clipsr_training.controller._draws import Views, join_views
from clipsr_training.degradation import (
    DEGRADATIONS,
    Chain,
    apply_chain,
    draw_side,
    draw_thumbnail,
    generator,
    make_thumbnail,
    reduce,
)
from clipsr_training.tower._pool import Pool
from clipsr_training.tower._recipe import TowerRecipe

# A picture is shifted by up to this part of its side, as usual on CIFAR.
_SHIFT = 1 / 8
# Damage happens to pictures of this side at least: below, little is left of any.
_SMALLEST_DAMAGED_PX = 16


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How pictures are drawn.

    Attributes:
        recipe: shares.
        preprocess: the encoder's native route.
        has_upscaler: whether there is another.
        seed: of all draws.
    """

    recipe: TowerRecipe
    preprocess: Preprocess
    has_upscaler: bool
    seed: int


class Draw(NamedTuple):
    """A picture on its way to the encoder.

    Attributes:
        pixels: uint8 [s, s, 3] where it is to be upscaled, else [3, R, R].
        is_upscaled: which of the two it is.
        index: of the picture, in the pool.
    """

    pixels: np.ndarray
    is_upscaled: bool
    index: int


class TowerBatch(NamedTuple):
    """A batch of draws.

    Attributes:
        views: the pictures.
        index: [B] int64 in the pool.
    """

    views: Views
    index: Tensor


def draw(square: np.ndarray, index: int, number: int, options: DrawOptions) -> Draw:
    """Draw what becomes of a picture: a function of it, the seed and the number of the draw.

    Args:
        square: RGB uint8 [S, S, 3].
        index: the picture's, in the pool.
        number: of the draw.
        options: how.
    """
    rng = generator(options.seed, number, "tower")
    square = _shift(square if rng.random() < 0.5 else square[:, ::-1], rng)
    side, which = square.shape[0], rng.random()
    if which < options.recipe.small_share:
        size = draw_side(rng, min(side, CANVAS_SIZES_PX[-1]))
        square = make_thumbnail(square, draw_thumbnail(rng, (size, size), (side, side)), rng)
    elif which < options.recipe.small_share + options.recipe.damaged_share:
        smallest = min(_SMALLEST_DAMAGED_PX, side)
        size = int(rng.integers(smallest, side + 1)) if rng.random() < 0.5 else side
        kind = DEGRADATIONS[rng.integers(len(DEGRADATIONS))]
        chain = Chain(damages=((kind, float(rng.random())),))
        square = apply_chain(reduce(square, (size, size), "bicubic"), chain, options.seed, number)
    is_upscaled = rng.random() < options.recipe.upscaled_share
    return _bring(square, index, options, is_upscaled=is_upscaled)


def show(square: np.ndarray, index: int, options: DrawOptions) -> Draw:
    """Return a picture as it is, by the route that the service takes for small ones."""
    return _bring(square, index, options, is_upscaled=True)


def _shift(square: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    reach = max(1, round(_SHIFT * square.shape[0]))
    top, left = (int(place) for place in rng.integers(0, 2 * reach + 1, 2))
    padded = np.pad(square, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return np.ascontiguousarray(padded[top : top + square.shape[0], left : left + square.shape[1]])


def _bring(square: np.ndarray, index: int, options: DrawOptions, *, is_upscaled: bool) -> Draw:
    if is_upscaled and options.has_upscaler and len(square) <= CANVAS_SIZES_PX[-1]:
        return Draw(square, is_upscaled=True, index=index)
    return Draw(planar(options.preprocess(Image.fromarray(square))), is_upscaled=False, index=index)


def collate(draws: Sequence[Draw]) -> TowerBatch:
    """Make a batch."""
    views = join_views([d.pixels for d in draws], [d.is_upscaled for d in draws])
    return TowerBatch(views=views, index=torch.tensor([d.index for d in draws]))


class DrawDataset(NumberedDraws[Draw]):
    """Pictures of a pool.

    Args:
        pool: what to draw from.
        rows: those of its pictures that are drawn.
        options: how.
        n_draws: see `NumberedDraws`.
        first: likewise.
    """

    def __init__(self, pool: Pool, rows: np.ndarray, options: DrawOptions, *, n_draws: int, first: int) -> None:
        super().__init__(n_draws, first)
        self.pool = pool
        self.rows = rows
        self.options = options
        self.order = PhotoOrder(len(rows), options.seed)

    def draw(self, number: int) -> Draw:
        """See `NumberedDraws.draw`."""
        index = int(self.rows[self.order.row(number)])
        return draw(self.pool.square(index), index, number, self.options)
