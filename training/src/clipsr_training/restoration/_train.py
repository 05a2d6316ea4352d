"""Training of a restorer on damaged photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from clipsr_training._fit import FitOptions, fit, open_run
from clipsr_training.adapt._photos import Photos, open_photos, split_held_out
from clipsr_training.data import SetOptions
from clipsr_training.restoration import _module
from clipsr_training.restoration._checkpoint import save_restorer
from clipsr_training.restoration._contexts import open_contexts
from clipsr_training.restoration._draws import check_photos
from clipsr_training.restoration._recipe import RestorerRecipe


def train_restorer(
    data: Sequence[str | Path], recipe: RestorerRecipe, options: FitOptions, *, data_options: SetOptions
) -> Path:
    """Train a restorer and write `restorer.safetensors`, in half precision, into the output folder.

    Args:
        data: sources of undamaged photos, drawn from equally often; see `open_photos`.
        recipe: network and hyperparameters.
        options: where and how to run; see `FitOptions`.
        data_options: what the names of the sources leave open.

    Returns:
        Path of the weights.

    Raises:
        FileNotFoundError: photos are missing.
        ValueError: photos can't be read, or are too few.
    """
    sources = [open_photos([spec], data_options) for spec in data]
    with open_run(options):
        options.seed_everything()
        checked = [check_photos(photos, str(spec)) for photos, spec in zip(sources, data, strict=True)]
        train, held_out = _split(checked, recipe, options.seed)
        settings = {"data": [photos.digest for photos in checked], **asdict(recipe)}
        module = _module.RestorerModule(open_contexts(recipe.contexts), recipe, train, held_out, options)
        fit(module, options, settings=settings, max_epochs=math.ceil(recipe.steps / _module.STEPS_PER_SEGMENT))
        path = options.output / "restorer.safetensors"
        if module.trainer.is_global_zero:
            save_restorer(module.restorer, path, dtype=torch.float16)
        return path


def _split(sources: Sequence[Photos], recipe: RestorerRecipe, seed: int) -> tuple[list[Photos], list[Photos]]:
    """Return what is trained on and what is kept off, of every source."""
    most = max(1, recipe.max_held_out // len(sources))
    splits = [split_held_out(len(photos), recipe.held_out, most, seed) for photos in sources]
    train = [photos.select(rows) for photos, (rows, _) in zip(sources, splits, strict=True)]
    if not all(map(len, train)):
        raise ValueError("a source of a single photo leaves none to train on: one is kept off to measure on")
    return train, [photos.select(rows) for photos, (_, rows) in zip(sources, splits, strict=True)]
