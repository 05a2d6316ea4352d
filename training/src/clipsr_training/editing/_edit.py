"""Edits: parameters of a photo moved until its embedding changes as two texts, or two pictures, differ.

Source: Gal et al. 2022 (StyleGAN-NADA), section 3.3, for directions between embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._embeddings import embed_pictures, embed_texts, freeze
from clipsr_training.editing._recipe import BOUNDS, Recipe, radii, render

_SMOOTH = 0.01  # parts of a parameter's bound, below which moving less is worth little
_DIFFERENCE = 0.01  # likewise, over which slopes are taken
_DAMPINGS = (1e-4, 1e-2, 1.0, 100.0)  # of a step, against the mean curvature; all are tried, the best is taken
_LEAST = 1e-12  # curvature, where nothing has an effect, as exposure has none on black
_ENOUGH = 1e-3  # of the loss: a step that gains no more is the last
# Shorter side in pixels at which the search edits. At an encoder's 64, where light and clipping are averages already,
# the true edit of a photo of 192 x 320 px missed its own embedding by half of the way.
_SIDE_PX = 256
_CROPS = (0.7, 1.0)  # share of a view's area


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """How an edit is found.

    Attributes:
        parameters: names of those that may move.
        strength: with texts, how far the embedding of the photo, of length 1, is to move.
        simplicity: weight of the mean part of their bounds that parameters have moved.
        n_steps: most steps of the search.
        n_views: cuts of the photo that are looked at.
        seed: of the views.
    """

    parameters: tuple[str, ...] = tuple(BOUNDS)
    strength: float = 0.5
    simplicity: float = 0.02
    n_steps: int = 30
    n_views: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.parameters if name not in BOUNDS]
        if unknown or not self.parameters or len(set(self.parameters)) < len(self.parameters):
            raise ValueError(f"parameters must be some of {', '.join(BOUNDS)}, each once; got {self.parameters}")
        if min(self.n_steps, self.n_views) < 1:
            raise ValueError("an edit takes at least one step and one view")
        if not 0 <= self.simplicity < math.inf:  # NaN is in no order with the bounds
            raise ValueError(f"simplicity must be a finite number of at least 0, got {self.simplicity}")
        if not 0 < self.strength <= 2:  # points on a sphere are no further apart
            raise ValueError(f"strength must be above 0 and at most 2, got {self.strength}")


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


def change_of_texts(clip: ClipCheckpoint, before: str, after: str, options: EditOptions) -> Tensor:
    """Return the way [1, D] from one text to another; ValueError if they are the same to the model.

    How far texts are apart says nothing of pictures: its length is `options.strength`. Without any, the search would
    find changes that nobody sees, for their direction is as good and they cost less.
    """
    texts = embed_texts(clip, [before, after])
    return options.strength * functional.normalize(_checked(texts[1:] - texts[:1]), dim=-1)


def change_of_images(clip: ClipCheckpoint, before: Image.Image, after: Image.Image, options: EditOptions) -> Tensor:
    """Return the way [V, D] from one picture to another, by view; ValueError if they are the same to the model."""
    side = clip.image_size_px
    look = _views(side, options)
    with torch.no_grad():
        first, second = (embed_pictures(clip, look(_to_tensor(image, side))) for image in (before, after))
    return _checked(second - first)


def _checked(change: Tensor) -> Tensor:
    if not change.norm(dim=-1).min() > 1e-5:
        raise ValueError("before and after are the same to the model: there is no direction between them")
    return change


def edit(clip: ClipCheckpoint, photo: Image.Image, wanted: Tensor, options: EditOptions) -> Iterator[Edit]:
    """Find a recipe by damped least squares, the same for the same seed; yields every step until one gains nothing.

    Args:
        clip: any checkpoint that this package loads; its weights stay as they are.
        photo: RGB, of any size.
        wanted: [V or 1, D] change of its embedding, by view or the same for all.
        options: how.
    """
    freeze(clip)
    miss = _miss(clip, photo, wanted, options)
    parts = torch.zeros(len(options.parameters))
    missed = miss(parts)
    loss = _loss(missed, parts, options)
    for step in range(1, options.n_steps + 1):
        tried = [(parts + move).clamp(-1, 1) for move in _moves(miss, missed, parts, options)]
        missed_by = [miss(trial) for trial in tried]
        losses = [_loss(residuals, trial, options) for residuals, trial in zip(missed_by, tried, strict=True)]
        best = losses.index(min(losses))
        gain = loss - losses[best]
        if gain > 0:
            parts, missed, loss = tried[best], missed_by[best], losses[best]
        values = {name: float(value) for name, value in _values(options, parts).items()}
        yield Edit(recipe=Recipe(values=values), step=step, loss=loss)
        if gain <= _ENOUGH * loss:
            return


def _values(options: EditOptions, parts: Tensor) -> dict[str, Tensor]:
    return {name: BOUNDS[name] * part for name, part in zip(options.parameters, parts, strict=True)}


def _loss(missed: Tensor, parts: Tensor, options: EditOptions) -> float:
    return float(missed.square().sum() + options.simplicity * (parts.square() + _SMOOTH**2).sqrt().mean())


def _moves(miss: Callable[[Tensor], Tensor], missed: Tensor, parts: Tensor, options: EditOptions) -> list[Tensor]:
    """Return steps to the minimum of a quadratic model of the loss, the shorter the more damped.

    Source: Levenberg 1944, with slopes by differences; the term of simplicity as reweighted squares.
    """
    inward = torch.where(parts > 0, -_DIFFERENCE, _DIFFERENCE)
    slopes = torch.stack([(miss(parts + move) - missed) / move.sum() for move in torch.diag(inward)])
    weights = options.simplicity / len(parts) / (parts.square() + _SMOOTH**2).sqrt()
    gradient = 2 * slopes @ missed + weights * parts
    curvature = 2 * slopes @ slopes.T + torch.diag(weights)
    unit = (curvature.diagonal().mean() + _LEAST) * torch.eye(len(parts))
    return [-torch.linalg.solve(curvature + damping * unit, gradient) for damping in _DAMPINGS]


def _miss(clip: ClipCheckpoint, photo: Image.Image, wanted: Tensor, options: EditOptions) -> Callable[[Tensor], Tensor]:
    """Return by what a list of parameters, as parts of their bounds, misses the change: numbers to be 0."""
    side = clip.image_size_px
    picture, look = _to_tensor(photo, side), _views(side, options)
    radius, shorter = radii(*picture.shape[1:]), min(picture.shape[1:])
    with torch.no_grad():
        before = embed_pictures(clip, look(picture))
    length = wanted.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def miss(parts: Tensor) -> Tensor:
        after = embed_pictures(clip, look(render(picture, _values(options, parts), radius, shorter)))
        return ((after - before - wanted) / length).flatten() / math.sqrt(len(after))

    return miss


def _views(side: int, options: EditOptions) -> Callable[[Tensor], Tensor]:
    """Return what cuts [3, H, W] into [V, 3, side, side], always alike: the central square and squares within it."""
    generator = Generator().manual_seed(options.seed)
    low, high = _CROPS
    scale = (low + (high - low) * torch.rand(options.n_views, generator=generator)).sqrt()
    scale[0] = 1
    shift = (2 * torch.rand(options.n_views, 2, generator=generator) - 1) * (1 - scale[:, None])
    matrices = torch.cat([scale[:, None, None] * torch.eye(2), shift[:, :, None]], -1)
    grid = functional.affine_grid(matrices, [options.n_views, 3, side, side], align_corners=False)

    def look(picture: Tensor) -> Tensor:
        small = functional.interpolate(_square(picture)[None], (side, side), mode="bicubic", antialias=True)
        return functional.grid_sample(
            small.clamp(0, 1).expand(options.n_views, -1, -1, -1), grid, padding_mode="border", align_corners=False
        )

    return look


def _square(picture: Tensor) -> Tensor:
    """Cut [3, H, W] to its central square."""
    height, width = picture.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[:, top : top + side, left : left + side]


def _to_tensor(image: Image.Image, side: int) -> Tensor:
    """Return an image as [3, H, W] in [0, 1], reduced to what a search for an encoder of this side needs."""
    factor = min(1, max(side, _SIDE_PX) / min(image.size))
    resized = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
