"""Adaptation of an upscaler, or of a tower as well, to damaged thumbnails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from clipsr_training import prompts
from clipsr_training._files import to_json, write_atomically
from clipsr_training._fit import FitOptions, fit, open_run
from clipsr_training._identity import digest_modules
from clipsr_training.adapt import _module
from clipsr_training.adapt._photos import Photos, check_photos, open_photos, split_held_out
from clipsr_training.adapt._recipe import AdaptRecipe
from clipsr_training.clip import ClipCheckpoint, save_clip
from clipsr_training.clip._embeddings import embed_texts
from clipsr_training.data import SetOptions
from clipsr_training.liif import Upscaler, save_liif

TEMPLATE = "a photo of a {}."


def embed_anchors(checkpoint: ClipCheckpoint, nouns: Sequence[str]) -> Tensor:
    """Return unit text embeddings [A, D] of nouns in a simple prompt."""
    return embed_texts(checkpoint, [prompts.expand(TEMPLATE, noun) for noun in nouns])


def adapt(
    checkpoint: ClipCheckpoint,
    upscaler: Upscaler,
    data: Sequence[str | Path],
    nouns: Sequence[str],
    recipe: AdaptRecipe,
    options: FitOptions,
    *,
    data_options: SetOptions,
    teacher_upscaler: Upscaler | None = None,
) -> Path:
    """Adapt an upscaler, or a tower as well, to damaged thumbnails; writes `liif.safetensors`, and `clip` if tuned.

    Args:
        checkpoint: the model, whose tower is the teacher.
        upscaler: what to start from.
        data: photos; see `open_photos`.
        nouns: what the tower is asked to tell apart.
        recipe: hyperparameters.
        options: where and how to run; see `FitOptions`.
        data_options: what the names of the sources leave open.
        teacher_upscaler: what renders the reduced photos that the teacher sees; None: `upscaler` as it is now.

    Returns:
        Path of the upscaler's weights.

    Raises:
        FileNotFoundError: photos are missing.
        ValueError: photos can't be read, or are fewer than a batch takes.
    """
    photos = open_photos(data, data_options)
    with open_run(options):
        return _adapt_in_folder(checkpoint, upscaler, photos, nouns, recipe, options, teacher_upscaler or upscaler)


def _adapt_in_folder(
    checkpoint: ClipCheckpoint,
    upscaler: Upscaler,
    photos: Photos,
    nouns: Sequence[str],
    recipe: AdaptRecipe,
    options: FitOptions,
    teacher_upscaler: Upscaler,
) -> Path:
    options.seed_everything()
    photos = check_photos(photos, checkpoint.image_size_px)
    train, held_out = split_held_out(len(photos), recipe.held_out, recipe.max_held_out, options.seed)
    if len(train) < recipe.batch_size:
        raise ValueError(
            f"{len(train)} photos to train on ({len(held_out)} are kept to choose weights by) are fewer than one batch "
            f"takes ({recipe.batch_size}): add photos, or choose a smaller --batch-size"
        )
    settings = {
        "model": digest_modules(checkpoint.model, facts=to_json(checkpoint.config)),
        "upscaler": digest_modules(upscaler, facts=str(upscaler.scale_max)),
        "teacher_upscaler": digest_modules(teacher_upscaler, facts=str(teacher_upscaler.scale_max)),
        "data": photos.digest,
        "anchors": list(nouns),
        **asdict(recipe),
    }
    module = _module.AdaptModule(
        checkpoint,
        upscaler,
        recipe,
        photos.select(train),
        photos.select(held_out),
        embed_anchors(checkpoint, nouns),
        options,
        teacher_upscaler=teacher_upscaler,
    )
    fit(module, options, settings=settings, max_epochs=math.ceil(recipe.steps / _module.STEPS_PER_SEGMENT))
    module.decide_tower()  # of a run that was one segment
    module.restore_best()
    return _write(module, options.output)


def _write(module: _module.AdaptModule, folder: Path) -> Path:
    path = folder / "liif.safetensors"
    is_tuned = module.recipe.tune == "tower"
    if module.trainer.is_global_zero:
        save_liif(module.upscaler, path)
        if is_tuned:
            report = {"tower_change_kept": module.tower_change_kept, "disagreement": module.disagreement()}
            write_atomically(folder / "tower.json", to_json(report, indent=2).encode())
            save_clip(module.checkpoint, folder / "clip", dtype=torch.float16)
    return path
