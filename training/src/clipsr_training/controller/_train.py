"""Training of a controller for a frozen CLIP model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from torch import nn

from clipsr_training._files import to_json
from clipsr_training._fit import FitOptions, fit, open_run
from clipsr_training._identity import digest_modules
from clipsr_training.adapt._photos import Photos, find_usable, open_photos, split_held_out
from clipsr_training.adapt._train import embed_anchors
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._embeddings import embed_texts
from clipsr_training.controller import _module
from clipsr_training.controller._captions import Captions, open_captioned
from clipsr_training.controller._controller import Controller
from clipsr_training.controller._files import ControlledClip, save_controller
from clipsr_training.controller._prototypes import embed_kinds, first_prototypes, require_told_apart
from clipsr_training.controller._recipe import ControllerRecipe
from clipsr_training.data import SetOptions, read_pairs
from clipsr_training.liif import Upscaler


def train_controller(
    checkpoint: ClipCheckpoint,
    upscaler: Upscaler | None,
    data: Sequence[str | Path],
    nouns: Sequence[str],
    recipe: ControllerRecipe,
    options: FitOptions,
    *,
    data_options: SetOptions,
) -> Path:
    """Train a controller and write its folder.

    Args:
        checkpoint: the model; none of its weights change.
        upscaler: renders small pictures, as in the service; None brings all to the encoder by the native route.
        data: photos, see `open_photos`; captioned ones for "daclip", see `read_pairs`.
        nouns: what the tower is asked to tell apart, in "distill".
        recipe: hyperparameters.
        options: where and how to run; see `FitOptions`.
        data_options: what the names of the sources leave open.

    Returns:
        The folder `controller` in the output folder.

    Raises:
        FileNotFoundError: photos are missing.
        ValueError: photos can't be read, are fewer than a batch takes, or the model can't be controlled.
    """
    if recipe.objective == "daclip":
        photos, captions = open_captioned([read_pairs(spec, options=data_options) for spec in data])
    else:
        photos, captions = open_photos(data, data_options), None
    with open_run(options):
        return _train_in_folder(checkpoint, upscaler, photos, captions, nouns, recipe, options)


def _train_in_folder(
    checkpoint: ClipCheckpoint,
    upscaler: Upscaler | None,
    photos: Photos,
    captions: Captions | None,
    nouns: Sequence[str],
    recipe: ControllerRecipe,
    options: FitOptions,
) -> Path:
    options.seed_everything()
    controller = make_controller(checkpoint, recipe)
    used = find_usable(photos, checkpoint.image_size_px)
    train, held_out = (
        used[rows] for rows in split_held_out(len(used), recipe.held_out, recipe.max_held_out, options.seed)
    )
    if len(train) < recipe.batch_size:
        raise ValueError(
            f"{len(train)} photos to train on ({len(held_out)} are kept to measure on) are fewer than one batch takes "
            f"({recipe.batch_size}): add photos, or choose a smaller --batch-size"
        )
    settings = {
        "model": digest_modules(checkpoint.model, facts=to_json(checkpoint.config)),
        "upscaler": None if upscaler is None else digest_modules(upscaler),
        "data": photos.digest,
        "texts": list(nouns) if captions is None else captions.digest,
        **asdict(recipe),
    }
    texts = (
        _module.Texts(embed_anchors(checkpoint, nouns))
        if captions is None
        else _module.Texts(embed_texts(checkpoint, captions.phrases), captions.select(train))
    )
    module = _module.ControllerModule(
        checkpoint, controller, upscaler, recipe, photos.select(train), photos.select(held_out), texts, options
    )
    fit(module, options, settings=settings, max_epochs=math.ceil(recipe.steps / _module.STEPS_PER_SEGMENT))
    return _write(module, options.output / "controller")


def make_controller(checkpoint: ClipCheckpoint, recipe: ControllerRecipe) -> Controller:
    """Return an untrained controller of a model's image tower.

    Raises:
        ValueError: the tower can't be controlled, or the model's texts are no targets for the recipe.
    """
    kinds = recipe.all_kinds
    controller = Controller(cast("nn.Module", checkpoint.model.visual), checkpoint.image_size_px, kinds)
    is_by_texts = recipe.objective == "daclip"
    directions = embed_kinds(checkpoint, kinds) if is_by_texts else first_prototypes(checkpoint, kinds)
    if is_by_texts:
        require_told_apart(directions, kinds)
        controller.prototypes.requires_grad = False
    with torch.no_grad():
        controller.prototypes.copy_(directions)
        if is_by_texts:
            controller.logit_scale.fill_(math.log(checkpoint.logit_scale))
    return controller


def _write(module: _module.ControllerModule, folder: Path) -> Path:
    found = module.judge()
    if module.trainer.is_global_zero:
        measured = {name: round(value, 4) if math.isfinite(value) else None for name, value in found._asdict().items()}
        save_controller(
            ControlledClip(clip=module.checkpoint, controller=module.controller),
            folder,
            training={**asdict(module.recipe), "held_out_measured": measured},
            # As CLIP models are written: it costs no accuracy.
            dtype=torch.float16,
        )
    return folder
