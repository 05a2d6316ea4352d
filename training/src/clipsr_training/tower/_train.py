"""Training of an image tower, from labelled pictures to a checkpoint folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipsr_training import prompts
from clipsr_training._files import to_json
from clipsr_training._fit import FitOptions, fit, open_run
from clipsr_training._identity import digest_modules
from clipsr_training.adapt._photos import split_held_out
from clipsr_training.clip import ClipCheckpoint, save_clip
from clipsr_training.clip._embeddings import embed_texts
from clipsr_training.data import SetOptions, read_pairs
from clipsr_training.liif import Upscaler
from clipsr_training.prompts import LANGUAGES
from clipsr_training.text._phrases import BARE, TEMPLATES, translate
from clipsr_training.tower import _module
from clipsr_training.tower._kept_off import write_kept_off
from clipsr_training.tower._pool import Pool, pool_sources
from clipsr_training.tower._recipe import TowerRecipe
from clipsr_training.tower._replay import Replay, ask

# (language, template) in which the names are read; the first is what pictures are judged by. Names in other languages
# come as the service reads them: in its English default, or alone.
_PROMPTS = (
    *(("en", template) for template in (*TEMPLATES["en"], BARE)),
    *((language, template) for language in LANGUAGES if language != "en" for template in (TEMPLATES["en"][0], BARE)),
)
# Of which pictures are kept off.
_SPLIT_SEED = 0


def train_tower(
    checkpoint: ClipCheckpoint,
    upscaler: Upscaler | None,
    data: Sequence[str | Path],
    recipe: TowerRecipe,
    options: FitOptions,
    *,
    replayed: ClipCheckpoint | None = None,
    nouns: Sequence[str] = (),
    data_options: SetOptions | None = None,
) -> Path:
    """Train the image tower of a CLIP model; the text tower stays as it is, bit for bit.

    Args:
        checkpoint: the model to start from.
        upscaler: renders pictures as the service does; None brings all to the encoder by the native route.
        data: sources with class labels; see `read_pairs`.
        recipe: hyperparameters.
        options: where and how to run; see `FitOptions`.
        replayed: a model whose opinion of the undamaged pictures is to be kept; None for none.
        nouns: what it tells apart.
        data_options: what the names of the sources leave open.

    Returns:
        The folder `clip` in the output folder; `kept_off` beside it has the pictures that were not trained on.

    Raises:
        FileNotFoundError: a source is missing.
        ValueError: an image can't be decoded, a source has no classes, or images are fewer than a batch takes.
    """
    sources = [read_pairs(spec, options=data_options) for spec in data]
    pool = pool_sources(sources, hold_out=recipe.hold_out)
    with open_run(options):
        options.seed_everything()
        for source in sources:
            source.check()
        rows = _split(pool, recipe)
        if len(rows[0]) < recipe.batch_size:
            raise ValueError(
                f"{len(rows[0])} pictures to train on ({len(rows[1])} are kept to measure on) are fewer than one batch "
                f"takes ({recipe.batch_size}): add pictures, or choose a smaller --batch-size"
            )
        folder = options.output / "replay"
        replay = None if replayed is None else ask(replayed, nouns, sources, folder, hold_out=recipe.hold_out)
        return _fit(checkpoint, upscaler, recipe, pool, rows, replay, options)


def _fit(
    checkpoint: ClipCheckpoint,
    upscaler: Upscaler | None,
    recipe: TowerRecipe,
    pool: Pool,
    rows: tuple[np.ndarray, np.ndarray],
    replay: Replay | None,
    options: FitOptions,
) -> Path:
    settings = {
        "model": digest_modules(checkpoint.model, facts=to_json(checkpoint.config)),
        "upscaler": None if upscaler is None else digest_modules(upscaler),
        "data": [source.digest for source in pool.sources],
        "replay": None if replay is None else replay.digest,
        **asdict(recipe),
    }
    names = _embed(checkpoint, pool.names)
    nouns = _embed(checkpoint, () if replay is None else replay.nouns)
    module = _module.TowerModule(checkpoint, upscaler, recipe, pool, rows, names, nouns, replay, options)
    fit(module, options, settings=settings, max_epochs=math.ceil(recipe.steps / _module.STEPS_PER_SEGMENT))
    folder = options.output / "clip"
    if module.trainer.is_global_zero:
        write_kept_off(pool, rows[1], options.output / "kept_off")
        if checkpoint.taught_names is not None:
            shown = (*pool.names, *(() if replay is None else replay.nouns))
            checkpoint = replace(checkpoint, taught_names=(*checkpoint.taught_names, *shown))
        save_clip(checkpoint, folder, dtype=torch.float16)
    return folder


def _split(pool: Pool, recipe: TowerRecipe) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (to train on, kept off) of the pool, some of every source.

    The same whatever the seed: a run that goes on from another's weights would else be judged on what that one saw. A
    source that is named several times to be drawn more often is kept off as often, and returned once.
    """
    train: list[np.ndarray] = []
    held_out: dict[str, np.ndarray] = {}
    for number, source in enumerate(pool.sources):
        rows = np.flatnonzero(pool.source == number)
        if not len(rows):
            continue
        shown, kept_off = split_held_out(len(rows), recipe.held_out, recipe.max_held_out, _SPLIT_SEED)
        train.append(rows[shown])
        held_out.setdefault(source.digest, rows[kept_off])
    return np.concatenate(train), np.concatenate(list(held_out.values()))


def _embed(checkpoint: ClipCheckpoint, words: Sequence[str]) -> Tensor:
    """Return unit text embeddings [P, n, D] of words in each prompt."""
    if not words:
        return torch.zeros(len(_PROMPTS), 0, checkpoint.embed_dim)
    return torch.stack(
        [
            embed_texts(checkpoint, [prompts.expand(template, translate(word, language)) for word in words])
            for language, template in _PROMPTS
        ]
    )
