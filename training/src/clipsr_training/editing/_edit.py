"""Edits: parameters of a photo moved until its embedding changes as two texts, or two pictures, differ.

Source: Gal et al. 2022 (StyleGAN-NADA), section 3.3, for the directional loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._embeddings import embed_pictures, embed_texts, freeze
from clipsr_training.editing._recipe import BOUNDS, Recipe, radii, render

_START = 0.02  # parts of a parameter's bound; without any change of the embedding there is no direction to compare
_SMOOTH = 0.01  # likewise, below which moving less is worth little
_CROPS = (0.7, 1.0)  # share of a view's area


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """How an edit is found.

    Attributes:
        parameters: names of those that may move.
        keep: where the direction has no length, weight of the cosine between the photo's embeddings before and after.
        simplicity: weight of the mean part of their bounds that parameters have moved.
        n_steps: number of optimizer steps.
        n_views: cuts of the photo that are looked at.
        seed: of the views and of the first step.
    """

    parameters: tuple[str, ...] = tuple(BOUNDS)
    keep: float = 0.2
    simplicity: float = 0.02
    n_steps: int = 50
    n_views: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.parameters if name not in BOUNDS]
        if unknown or not self.parameters or len(set(self.parameters)) < len(self.parameters):
            raise ValueError(f"parameters must be some of {', '.join(BOUNDS)}, each once; got {self.parameters}")
        if min(self.n_steps, self.n_views) < 1:
            raise ValueError("an edit takes at least one step and one view")
        for name in ("keep", "simplicity"):
            if not 0 <= getattr(self, name) < math.inf:  # NaN is in no order with the bounds
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """An edit at some step.

    Attributes:
        recipe: what was found.
        step: after how many steps.
        loss: of this recipe; the smaller the better.
    """

    recipe: Recipe
    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Where the embedding of a photo is to move.

    Attributes:
        change: [V or 1, D] by view, or the same for all.
        has_length: whether its length counts: that of two pictures does, that of two texts means nothing to a picture.
    """

    change: Tensor
    has_length: bool


def direction_of_texts(clip: ClipCheckpoint, before: str, after: str) -> Direction:
    """Return the way from one text to another; ValueError if they are the same to the model."""
    texts = embed_texts(clip, [before, after])
    return _direction(texts[1:] - texts[:1], has_length=False)


def direction_of_images(
    clip: ClipCheckpoint, before: Image.Image, after: Image.Image, options: EditOptions
) -> Direction:
    """Return the way from one picture to another; ValueError if they are the same to the model."""
    look = _views(clip.image_size_px, options)
    with torch.no_grad():
        first, second = (
            embed_pictures(clip, look(_square(_to_tensor(image, clip.image_size_px)))) for image in (before, after)
        )
    return _direction(second - first, has_length=True)


def _direction(change: Tensor, *, has_length: bool) -> Direction:
    if not change.norm(dim=-1).min() > 1e-5:
        raise ValueError("before and after are the same to the model: there is no direction between them")
    return Direction(change=change, has_length=has_length)


def edit(clip: ClipCheckpoint, photo: Image.Image, direction: Direction, options: EditOptions) -> Iterator[Edit]:
    """Find a recipe by L-BFGS; yields after every step, the same for the same seed.

    Args:
        clip: any checkpoint that this package loads; its weights stay as they are.
        photo: RGB, of any size.
        direction: where to.
        options: how.
    """
    freeze(clip)
    loss = _loss(clip, photo, direction, options)
    generator = Generator().manual_seed(options.seed)
    free = (_START * torch.randn(len(options.parameters), generator=generator)).requires_grad_()
    optimizer = torch.optim.LBFGS([free], max_iter=1, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        lost = loss(torch.tanh(free))
        cast("Callable[[], None]", lost.backward)()
        return lost

    for step in range(1, options.n_steps + 1):
        optimizer.step(closure)
        with torch.no_grad():
            parts = torch.tanh(free)
            values = {name: float(value) for name, value in _values(options, parts).items()}
            yield Edit(recipe=Recipe(values=values), step=step, loss=float(loss(parts)))


def _values(options: EditOptions, parts: Tensor) -> dict[str, Tensor]:
    return {name: BOUNDS[name] * part for name, part in zip(options.parameters, parts, strict=True)}


def _loss(
    clip: ClipCheckpoint, photo: Image.Image, direction: Direction, options: EditOptions
) -> Callable[[Tensor], Tensor]:
    """Return what a list of parameters, as parts of their bounds, loses."""
    side = clip.image_size_px
    picture, look = _to_tensor(photo, side), _views(side, options)
    radius = radii(*picture.shape[1:])
    with torch.no_grad():
        before = embed_pictures(clip, look(_square(picture)))
    target = direction.change

    def loss(parts: Tensor) -> Tensor:
        after = embed_pictures(clip, look(_square(render(picture, _values(options, parts), radius, side))))
        change = after - before
        lost = 1 - functional.cosine_similarity(change, target).mean()
        if direction.has_length:
            lost = lost + (change.norm(dim=-1) / target.norm(dim=-1) - 1).square().mean()
        else:
            lost = lost + options.keep * (1 - (after * before).sum(-1).mean())
        return lost + options.simplicity * (parts.square() + _SMOOTH**2).sqrt().mean()

    return loss


def _views(side: int, options: EditOptions) -> Callable[[Tensor], Tensor]:
    """Return what cuts [3, side, side] into [V, 3, side, side], always alike: the whole and squares drawn at random."""
    generator = Generator().manual_seed(options.seed)
    low, high = _CROPS
    scale = (low + (high - low) * torch.rand(options.n_views, generator=generator)).sqrt()
    scale[0] = 1
    shift = (2 * torch.rand(options.n_views, 2, generator=generator) - 1) * (1 - scale[:, None])
    matrices = torch.cat([scale[:, None, None] * torch.eye(2), shift[:, :, None]], -1)
    grid = functional.affine_grid(matrices, [options.n_views, 3, side, side], align_corners=False)
    return lambda picture: functional.grid_sample(
        picture.expand(options.n_views, -1, -1, -1), grid, padding_mode="border", align_corners=False
    )


def _square(picture: Tensor) -> Tensor:
    """Cut [3, H, W] to its central square."""
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[:, top : top + side, left : left + side]


def _to_tensor(image: Image.Image, side: int) -> Tensor:
    """Return an image as [3, H, W] in [0, 1] whose shorter side is `side`."""
    factor = side / min(image.size)
    size = (max(side, round(image.width * factor)), max(side, round(image.height * factor)))
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
