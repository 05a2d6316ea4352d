"""Drawings: strokes moved until a CLIP model agrees with a text, which shows what the text means to that model.

Source: Frans et al. 2021 (CLIPDraw), for the loss, the views and the learning rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor

from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._embeddings import embed_pictures, embed_texts, freeze
from clipsr_training.drawing._strokes import Strokes
from clipsr_training.drawing._views import draw_views

_RATES = {"points": 1 / 224, "widths": 0.1 / 224, "colors": 0.01}
_DECAY = {0.5: 0.4, 0.75: 0.1}  # from this share of the steps on, rates are this part of the first
_CHECK_EVERY = 10
_FIXED_VIEWS = 16


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How a drawing is made.

    Attributes:
        text: what to draw.
        not_texts: what it must not look like.
        not_weight: of the mean cosine with those against that with `text`.
        n_strokes: number of strokes.
        n_steps: number of optimizer steps.
        n_views: random views of the drawing a step.
        seed: of the first strokes and of the views.
    """

    text: str
    not_texts: tuple[str, ...] = ()
    not_weight: float = 0.3
    n_strokes: int = 32
    n_steps: int = 500
    n_views: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(text.strip() for text in (self.text, *self.not_texts)):
            raise ValueError("there is no text to draw, or one of those that it must not be is empty")
        if min(self.n_strokes, self.n_steps, self.n_views) < 1:
            raise ValueError("a drawing takes at least one stroke, one step and one view")
        if not 0 <= self.not_weight < math.inf:  # NaN is in no order with the bounds
            raise ValueError(f"not_weight must be a finite number of at least 0, got {self.not_weight}")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A drawing at some step.

    Attributes:
        strokes: what was drawn.
        step: after how many steps.
        score: mean cosine with the text, less the weighted one with what it must not be, over fixed views.
    """

    strokes: Strokes
    step: int
    score: float


def draw(clip: ClipCheckpoint, options: DrawOptions, background: Tensor | None = None) -> Iterator[Drawing]:
    """Optimize strokes; yields the drawing every ten steps and at the end, the same for the same seed.

    Args:
        clip: any checkpoint that this package loads; its weights stay as they are.
        options: what to draw and how.
        background: RGB [3, R, R] in [0, 1] to draw on (None: white paper).
    """
    generator = Generator().manual_seed(options.seed)
    strokes = Strokes.scattered(options.n_strokes, generator)
    values = {name: getattr(strokes, name).clone().requires_grad_() for name in _RATES}
    optimizers = [torch.optim.Adam([values[name]], rate) for name, rate in _RATES.items()]
    score = _scorer(clip, options)
    side = clip.image_size_px
    freeze(clip)
    for step in range(options.n_steps):
        decay = min((part for start, part in _DECAY.items() if step >= start * options.n_steps), default=1.0)
        for optimizer, rate in zip(optimizers, _RATES.values(), strict=True):
            optimizer.param_groups[0]["lr"] = decay * rate
            optimizer.zero_grad()
        picture = strokes.map(values).render(side, background)
        loss = -score(draw_views(picture, options.n_views, side, generator))
        cast("Callable[[], None]", loss.backward)()
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            for name, value in vars(strokes.map(values).clamped()).items():
                values[name].copy_(value)
            if step % _CHECK_EVERY == _CHECK_EVERY - 1 or step == options.n_steps - 1:
                now = strokes.map({name: value.detach().clone() for name, value in values.items()})
                views = draw_views(now.render(side, background), _FIXED_VIEWS, side, Generator().manual_seed(0))
                yield Drawing(strokes=now, step=step + 1, score=float(score(views)))


def _scorer(clip: ClipCheckpoint, options: DrawOptions) -> Callable[[Tensor], Tensor]:
    """Return what gives views [B, 3, R, R] one number, the larger the better."""
    wanted, *others = embed_texts(clip, [options.text, *options.not_texts])
    direction = wanted - options.not_weight * torch.stack(others).mean(0) if others else wanted
    return lambda views: (embed_pictures(clip, views) @ direction).mean()
