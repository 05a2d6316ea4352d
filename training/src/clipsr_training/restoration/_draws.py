"""Training samples of a restorer: squares cut from photos, damaged, at a time of the SDE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipsr_training._draws import NumberedDraws, PhotoOrder
from clipsr_training.adapt._photos import Photos
from clipsr_training.data import decode
from clipsr_training.data._image_set import check_files
from clipsr_training.data._images import read_size
from clipsr_training.degradation import CLEAN, DEGRADATIONS, Chain, Kind, apply_chain, generator
from clipsr_training.restoration._contexts import share_kinds
from clipsr_training.restoration._recipe import RestorerRecipe

SMALLEST_PX = 16
_MULTIPLE_PX = 8


class Draw(NamedTuple):
    """A clean square, the damaged one, and where on the SDE the network sees it.

    Attributes:
        clean: [3, S, S] uint8.
        lq: [3, S, S] uint8, damaged.
        kinds: [K] float32, see `share_kinds`.
        time: whole, 1 to T.
        noise: [3, S, S] float32, standard normal.
    """

    clean: np.ndarray
    lq: np.ndarray
    kinds: np.ndarray
    time: int
    noise: np.ndarray


class Group(NamedTuple):
    """Draws of one size: the fields of `Draw`, stacked to [N, ...]."""

    clean: Tensor
    lq: Tensor
    kinds: Tensor
    time: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How pictures are drawn.

    Attributes:
        recipe: sizes and shares.
        n_times: T of the schedule.
        seed: of all draws.
    """

    recipe: RestorerRecipe
    n_times: int
    seed: int


def draw(photos: Photos, index: int, number: int, options: DrawOptions) -> Draw:
    """Draw a picture of a photo, a function of the photo, the seed and the number of the draw."""
    rng = generator(options.seed, number, "restore")
    recipe = options.recipe
    clean = cut(np.asarray(decode(photos.read(index), photos.names[index])), rng, recipe.side_px, recipe.scale_max)
    kinds = draw_kinds(rng, recipe)
    damages: tuple[tuple[Kind, float], ...] = tuple((kind, float(rng.random())) for kind in kinds or (CLEAN,))
    lq = apply_chain(clean, Chain(damages=damages), options.seed, number)
    is_last = rng.random() < recipe.last_time_share
    is_told = rng.random() >= recipe.context_dropout
    return Draw(
        clean=_planar(clean),
        lq=_planar(lq),
        kinds=share_kinds(kinds if is_told else None),
        time=options.n_times if is_last else int(rng.integers(1, options.n_times + 1)),
        noise=rng.standard_normal((3, *clean.shape[:2]), dtype=np.float32),
    )


def _planar(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def cut(pixels: np.ndarray, rng: np.random.Generator, side_px: int, scale_max: float) -> np.ndarray:
    """Cut a square at a random place, reduced by a random scale and flipped in half of the draws.

    Args:
        pixels: RGB uint8 [H, W, 3].
        rng: of the draw.
        side_px: of the square; a smaller picture gives the largest multiple of 8 that it holds.
        scale_max: at most so many pixels become one in each direction.
    """
    shorter = min(pixels.shape[:2])
    side = min(side_px, shorter // _MULTIPLE_PX * _MULTIPLE_PX)
    region = round(side * rng.uniform(1, min(scale_max, shorter / side)))
    top, left = (int(rng.integers(n - region + 1)) for n in pixels.shape[:2])
    square = Image.fromarray(pixels[top : top + region, left : left + region])
    found = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(found[:, ::-1]) if rng.random() < 0.5 else found


def draw_kinds(rng: np.random.Generator, recipe: RestorerRecipe) -> tuple[Kind, ...]:
    """Draw the kinds of damage of a picture: none, one or two, in the order in which they happen."""
    which = rng.random()
    n = 0 if which < recipe.clean_share else 2 if which < recipe.clean_share + recipe.two_share else 1
    return tuple(DEGRADATIONS[i] for i in sorted(rng.choice(len(DEGRADATIONS), n, replace=False)))


def collate(draws: Sequence[Draw]) -> list[Group]:
    """Make a batch: a group for every size."""
    by_side: dict[int, list[Draw]] = {}
    for item in draws:
        by_side.setdefault(item.clean.shape[1], []).append(item)
    return [
        Group(*(torch.from_numpy(np.stack([np.asarray(value) for value in field])) for field in zip(*own, strict=True)))
        for _, own in sorted(by_side.items())
    ]


def check_photos(photos: Photos, name: str) -> Photos:
    """Decode every photo once; return those that are large enough.

    Raises:
        ValueError: photos can't be read, or none is large enough.
    """
    check_files(photos.read, photos.names, name)
    sides = [min(read_size(photos.read(i), photos.names[i])) for i in range(len(photos))]
    used = [i for i, side in enumerate(sides) if side >= SMALLEST_PX]
    if not used:
        raise ValueError(f"{name} holds no picture of {SMALLEST_PX} px or more to damage and restore")
    return photos.select(used)


class DrawDataset(NumberedDraws[Draw]):
    """Damaged squares of photos.

    Sources take turns, so each gives as many pictures, however many it holds.

    Args:
        sources: what to draw from.
        options: how.
        n_draws: see `NumberedDraws`.
        first: likewise.
    """

    def __init__(self, sources: Sequence[Photos], options: DrawOptions, *, n_draws: int, first: int) -> None:
        super().__init__(n_draws, first)
        self.sources = sources
        self.options = options
        self.orders = [PhotoOrder(len(own), options.seed, f"restore order {i}") for i, own in enumerate(sources)]

    def draw(self, number: int) -> Draw:
        """See `NumberedDraws.draw`."""
        turn, source = divmod(number, len(self.sources))
        return draw(self.sources[source], self.orders[source].row(turn), number, self.options)
