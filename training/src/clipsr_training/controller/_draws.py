"""Damaged pictures beside what they were, as the encoder meets both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipsr_training._draws import NumberedDraws, PhotoOrder
from clipsr_training.adapt._photos import CANVAS_SIZES_PX, Canvases, Photos, on_canvases
from clipsr_training.adapt._rendering import render_canvases
from clipsr_training.clip._preprocess import Preprocess, planar
from clipsr_training.controller._recipe import ControllerRecipe
from clipsr_training.degradation import CLEAN, KINDS, Chain, Kind, apply_chain, generator, reduce
from clipsr_training.liif import Upscaler
from clipsr_training.liif._upscaler import to_uint8

# Below this side little is left of any picture, whatever happened to it.
_SMALLEST_PX = 32
# Beyond twice the encoder's side, damage is averaged away.
_LARGEST_PART = 2
# A crop has at least this part of the photo's side.
_SMALLEST_CROP = 0.5


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How pictures are drawn.

    Attributes:
        recipe: kinds of damage and their shares.
        preprocess: the encoder's native route.
        image_size_px: R.
        upscaled_below_px: pictures of a smaller side are rendered by super-resolution; 0 for none.
        seed: of all draws.
    """

    recipe: ControllerRecipe
    preprocess: Preprocess
    image_size_px: int
    upscaled_below_px: int
    seed: int

    def is_upscaled(self, side_px: int) -> bool:
        """Whether a picture takes the upscaled route."""
        return side_px < self.upscaled_below_px and side_px <= CANVAS_SIZES_PX[-1]


class Draw(NamedTuple):
    """A picture, damaged and not.

    Attributes:
        damaged: uint8 [s, s, 3] where it is to be upscaled, else [3, R, R].
        undamaged: likewise.
        is_upscaled: which of the two it is.
        target: [C] float32, the kinds of damage with equal shares of 1.
        row: of the photo.
        number: of the draw.
    """

    damaged: np.ndarray
    undamaged: np.ndarray
    is_upscaled: bool
    target: np.ndarray
    row: int
    number: int


def draw(square: np.ndarray, row: int, number: int, options: DrawOptions) -> Draw:
    """Draw a picture from a photo: a function of the photo, the seed and the number of the draw.

    The picture is damaged at its own size, and then brought to the encoder as the service does.

    Args:
        square: RGB uint8 [S, S, 3].
        row: the photo's.
        number: of the draw.
        options: how.
    """
    rng = generator(options.seed, number, "controller")
    if rng.random() < 0.5:
        square = np.ascontiguousarray(square[:, ::-1])
    side = square.shape[0]
    smallest, largest = min(_SMALLEST_PX, side), min(_LARGEST_PART * options.image_size_px, side)
    size = round(smallest * (max(largest, smallest) / smallest) ** rng.random())
    crop = int(rng.integers(max(size, round(_SMALLEST_CROP * side)), side + 1))
    top, left = (int(place) for place in rng.integers(0, side - crop + 1, 2))
    undamaged = reduce(np.ascontiguousarray(square[top : top + crop, left : left + crop]), (size, size), "bicubic")
    kinds = draw_kinds(rng, options.recipe)
    chain = Chain(damages=tuple((kind, float(rng.random())) for kind in kinds))
    damaged = apply_chain(undamaged, chain, options.seed, number)
    known = options.recipe.all_kinds
    target = np.zeros(len(known), dtype=np.float32)
    target[[known.index(kind) for kind in kinds]] = 1 / len(kinds)
    is_upscaled = options.is_upscaled(size)
    if not is_upscaled:
        damaged, undamaged = (planar(options.preprocess(Image.fromarray(image))) for image in (damaged, undamaged))
    return Draw(damaged, undamaged, is_upscaled, target, row, number)


def draw_kinds(rng: np.random.Generator, recipe: ControllerRecipe) -> tuple[Kind, ...]:
    """Draw what happens to a picture, in the order in which it happens: nothing, one kind, or two."""
    which = rng.random()
    if which < recipe.clean_share:
        return (CLEAN,)
    n_kinds = min(2 if which < recipe.clean_share + recipe.double_share else 1, len(recipe.kinds))
    chosen = rng.choice(len(recipe.kinds), n_kinds, replace=False)
    return tuple(sorted((recipe.kinds[i] for i in chosen), key=KINDS.index))


class Views(NamedTuple):
    """Pictures of a batch on their way to the encoder.

    Attributes:
        native: [n, 3, R, R] uint8, those that are there already.
        canvases: those that are to be upscaled.
        is_upscaled: [B] which is which.
    """

    native: Tensor
    canvases: list[Canvases]
    is_upscaled: Tensor


class ControllerBatch(NamedTuple):
    """A batch of draws.

    Attributes:
        damaged: as they are.
        undamaged: as they were.
        target: [B, C] kinds of damage; rows sum to 1.
        rows: [B] int64, of the photos.
        numbers: [B] int64, of the draws.
    """

    damaged: Views
    undamaged: Views
    target: Tensor
    rows: Tensor
    numbers: Tensor


def collate(draws: Sequence[Draw]) -> ControllerBatch:
    """Make a batch."""
    is_upscaled = [d.is_upscaled for d in draws]
    return ControllerBatch(
        damaged=join_views([d.damaged for d in draws], is_upscaled),
        undamaged=join_views([d.undamaged for d in draws], is_upscaled),
        target=torch.from_numpy(np.stack([d.target for d in draws])),
        rows=torch.tensor([d.row for d in draws]),
        numbers=torch.tensor([d.number for d in draws]),
    )


def join_views(images: Sequence[np.ndarray], is_upscaled: Sequence[bool]) -> Views:
    """Make a batch of pictures, uint8 [s, s, 3] where they are to be upscaled, else [3, R, R]."""
    native = [image for image, small in zip(images, is_upscaled, strict=True) if not small]
    return Views(
        native=torch.from_numpy(np.stack(native)) if native else torch.empty(0, dtype=torch.uint8),
        canvases=on_canvases([image for image, small in zip(images, is_upscaled, strict=True) if small]),
        is_upscaled=torch.tensor(is_upscaled),
    )


@torch.no_grad()
def render(views: Views, upscaler: Upscaler | None, image_size_px: int) -> Tensor:
    """Return what the encoder sees, RGB uint8 [B, 3, R, R]."""
    shape = (len(views.is_upscaled), 3, image_size_px, image_size_px)
    pixels = torch.empty(shape, dtype=torch.uint8, device=views.is_upscaled.device)
    if len(views.native):
        pixels[~views.is_upscaled] = views.native
    if views.canvases:
        assert upscaler is not None, "pictures take the upscaled route where there is an upscaler"
        pixels[views.is_upscaled] = to_uint8(render_canvases(upscaler, views.canvases, image_size_px))
    return pixels


class DrawDataset(NumberedDraws[Draw]):
    """Damaged pictures of photos.

    Args:
        photos: what to draw from.
        options: how.
        n_draws: see `NumberedDraws`.
        first: likewise.
    """

    def __init__(self, photos: Photos, options: DrawOptions, *, n_draws: int, first: int) -> None:
        super().__init__(n_draws, first)
        self.photos = photos
        self.options = options
        self.order = PhotoOrder(len(photos), options.seed)

    def draw(self, number: int) -> Draw:
        """See `NumberedDraws.draw`."""
        row = self.order.row(number)
        return draw(self.photos.square(row), row, number, self.options)
