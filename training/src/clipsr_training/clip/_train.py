"""Contrastive training of CLIP models on Lightning."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from clipsr_training import prompts
from clipsr_training._files import to_json
from clipsr_training._fit import FitOptions, fit, of_all_devices, open_run
from clipsr_training._identity import digest_modules
from clipsr_training.clip._checkpoint import ClipCheckpoint, save_clip
from clipsr_training.clip._data import (
    ClassPrompts,
    ClipBatch,
    ClipBatchDataset,
    RowReader,
    TrainingSource,
    split_validation,
)
from clipsr_training.clip._depthwise import speed_up_depthwise
from clipsr_training.clip._distillation import Teachers, distillation_loss, load_teachers
from clipsr_training.clip._loss import multi_positive_contrastive_loss, multi_positive_sigmoid_loss
from clipsr_training.clip._optimizer import build_optimizer, lock_towers
from clipsr_training.clip._recipes import ClipRecipe
from clipsr_training.clip._rendering import RenderedOnTheFly, Renderer, Rendering, render_to_cache
from clipsr_training.clip._thumbnails import ThumbnailSource
from clipsr_training.data import PairSource, SetOptions, read_pairs

# CLIP clips its learned scale at 100 (Radford et al. 2021, section 2.5).
_LOGIT_SCALE_MAX = math.log(100)
_VALIDATION_BATCH = 500


class ClipTrainingModule(LightningModule):
    """Trains on all sources at once and reports zero-shot accuracy on each source's validation images."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        checkpoint: ClipCheckpoint,
        recipe: ClipRecipe,
        sources: Sequence[TrainingSource],
        phrases: ClassPrompts,
        options: FitOptions,
        teachers: Teachers | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.model: Any = checkpoint.model.train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.recipe = recipe
        self.sources = sources
        self.phrases = phrases
        self.options = options
        self.teachers = teachers
        lock_towers(self.model, recipe)
        speed_up_depthwise(self.model)
        if recipe.compiled:
            # In place: the names of the weights stay as they are.
            self.model.visual.compile()
            if teachers is not None:
                teachers.compile()
        self.register_buffer("mean", torch.tensor(checkpoint.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(checkpoint.std).view(1, 3, 1, 1) * 255, persistent=False)

    def on_fit_start(self) -> None:
        """Bring the teachers, which are no part of this module's weights, to where it trains."""
        if self.teachers is not None:
            self.teachers.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of a wholly locked image tower: its normalization must not follow the new images."""
        if self.recipe.unlocked_image_groups == 0:
            self.model.visual.eval()

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        """Return this device's part of the batches of the current epoch.

        Raises:
            ValueError: there are fewer images than one batch of all devices takes.
        """
        dataset = ClipBatchDataset(
            self.sources,
            self.phrases,
            self.checkpoint.tokenizer,
            batch_size=self.recipe.batch_size,
            augmented=self.recipe.augmented,
            cutout=self.recipe.cutout,
            seed=self.options.seed,
            epoch=self.current_epoch,
            device=self.trainer.global_rank,
            n_devices=self.trainer.world_size,
        )
        if not len(dataset):
            raise ValueError(
                f"{len(dataset.order)} images to train on are fewer than one batch of all devices takes "
                f"({self.trainer.world_size} of {self.recipe.batch_size})"
            )
        # Only rendering is worth processes of its own. They are forked, since sources hold open tables and functions.
        n_workers = self.options.n_workers if self.recipe.on_the_fly else 0
        return DataLoader(
            dataset,
            batch_size=None,
            # Every device reads its part of every batch. A sampler of this type keeps Lightning from dealing out whole
            # batches.
            sampler=DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=False),
            num_workers=n_workers,
            multiprocessing_context="fork" if n_workers else None,
        )

    def val_dataloader(self) -> list[DataLoader[ClipBatch]]:
        """Return one loader for each source that has validation images: these with all texts to choose from."""
        batches = map(self._validation_batches, self._validated)
        return [DataLoader(cast("Dataset[ClipBatch]", own), batch_size=None) for own in batches]

    @property
    def _validated(self) -> list[TrainingSource]:
        return [source for source in self.sources if len(source.validation)]

    def _validation_batches(self, source: TrainingSource) -> list[ClipBatch]:
        own = source.texts if source.has_classes else [source.texts[row] for row in source.validation]
        candidates = np.unique(np.concatenate(own))
        tokens = self.checkpoint.tokenizer([self.phrases.evaluation_text(int(i)) for i in candidates])
        batches: list[ClipBatch] = []
        for start in range(0, len(source.validation), _VALIDATION_BATCH):
            rows = source.validation[start : start + _VALIDATION_BATCH]
            is_positive = np.stack([np.isin(candidates, source.texts[row]) for row in rows])
            pixels = torch.from_numpy(np.array(source.pixels[rows]))
            batches.append(ClipBatch(pixels=pixels, tokens=tokens, is_positive=torch.from_numpy(is_positive)))
        return batches

    def normalize(self, pixels: Tensor) -> Tensor:
        """Map uint8 RGB to the model's input."""
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Return the contrastive loss over the images and texts of all devices, with that of the teachers if any.

        Teachers judge this device's images among all texts, so the mean over the devices is that over all images.
        """
        own_images = functional.normalize(self.model.encode_image(self.normalize(batch.pixels)).float(), dim=-1)
        own_texts = functional.normalize(self.model.encode_text(batch.tokens).float(), dim=-1)
        image_features = of_all_devices(self, own_images)
        text_features = of_all_devices(self, own_texts)[: batch.is_positive.shape[1]]
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=_LOGIT_SCALE_MAX)
        scale, bias = self.model.logit_scale.exp(), getattr(self.model, "logit_bias", None)
        if bias is None:
            loss = multi_positive_contrastive_loss(image_features, text_features, scale, batch.is_positive)
        else:
            loss = multi_positive_sigmoid_loss(image_features, text_features, scale, bias, batch.is_positive)
        if self.teachers is not None:
            n_texts, weight = batch.is_positive.shape[1], self.recipe.distillation
            own = [of_all_devices(self, t)[:n_texts] for t in self.teachers.encode_texts(batch.tokens)]
            target = self.teachers.probabilities(batch.pixels, own)
            taught = distillation_loss(own_images, text_features, scale, target)
            self.log("train/distillation", taught, prog_bar=True, batch_size=len(batch.pixels))
            loss = (1 - weight) * loss + weight * taught
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.pixels))
        self.log("train/logit_scale", scale, batch_size=len(batch.pixels))
        return loss

    def validation_step(self, batch: ClipBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log zero-shot top-1 among the source's own classes, or among the captions of its validation images."""
        text_features = functional.normalize(self.model.encode_text(batch.tokens).float(), dim=-1)
        image_features = self.model.encode_image(self.normalize(batch.pixels)).float()
        best = (image_features @ text_features.T).argmax(dim=1, keepdim=True)
        accuracy = batch.is_positive.gather(1, best).float().mean()
        name = f"validation/top1_{self._validated[dataloader_idx].name}"
        self.log(name, accuracy, prog_bar=True, batch_size=len(batch.pixels), add_dataloader_idx=False, sync_dist=True)

    def configure_optimizers(self) -> dict[str, object]:
        """Return the optimizer and the per-step schedule."""
        optimizer = build_optimizer(self.model, self.recipe)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, total, self.recipe.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def learning_rate(n_steps: int, warmup: float, step: int) -> float:
    """Return the factor on the peak rate: rising linearly for a part `warmup` of the run, then falling to zero."""
    rising = max(1.0, warmup * n_steps)
    return min((step + 1) / rising, max(0.0, (n_steps - step) / max(1.0, n_steps - rising)))


def train_clip(
    checkpoint: ClipCheckpoint,
    data: Sequence[str | Path],
    recipe: ClipRecipe,
    options: FitOptions,
    *,
    data_options: SetOptions | None = None,
) -> Path:
    """Train a CLIP model on image-text pairs and write a checkpoint folder.

    Args:
        checkpoint: model to start from, trained or not.
        data: sources of pairs; see `read_pairs`.
        recipe: hyperparameters.
        options: where and how to run; see `FitOptions`.
        data_options: what the names of the sources leave open; see `read_pairs`.

    Returns:
        The folder `clip` in the output folder.

    Raises:
        FileNotFoundError: data or weights are missing.
        ValueError: a source does not have the expected form, an image can't be decoded, there are fewer images than
            one batch takes, or a teacher does not fit the model.
    """
    pairs = [read_pairs(spec, recipe.webp_quality, data_options) for spec in data]
    return train_on_pairs(checkpoint, pairs, recipe, options, cache=options.output / "rendered")


def train_on_pairs(
    checkpoint: ClipCheckpoint, pairs: Sequence[PairSource], recipe: ClipRecipe, options: FitOptions, *, cache: Path
) -> Path:
    """Train on sources that are open already; see `train_clip`.

    Args:
        checkpoint: model to start from, trained or not.
        pairs: what to train on.
        recipe: hyperparameters.
        options: where and how to run; see `FitOptions`.
        cache: folder of rendered images, which several runs may share.

    Returns:
        The folder `clip` in the output folder.

    Raises:
        FileNotFoundError: a teacher is missing.
        ValueError: an image can't be decoded, there are fewer images than one batch takes, or a teacher does not fit
            the model.
    """
    teachers = load_teachers(recipe.teachers, checkpoint, mirrors=recipe.augmented)
    with open_run(options):
        return _train_in_folder(checkpoint, pairs, recipe, options, cache, teachers)


def _train_in_folder(
    checkpoint: ClipCheckpoint,
    pairs: Sequence[PairSource],
    recipe: ClipRecipe,
    options: FitOptions,
    cache: Path,
    teachers: Teachers | None,
) -> Path:
    phrases = ClassPrompts([*prompts.template_sets()[recipe.template_set], "{}", "a low resolution photo of a {}."])
    renderers = [Renderer(rendering, checkpoint) for rendering in _renderings(recipe)]
    named = _with_own_names(pairs)
    sources = [
        _training_source(source, phrases, renderer, recipe, options.seed, cache)
        for renderer in renderers
        for source in named
    ]
    n_images = sum(len(source.train) for source in sources)
    if n_images < recipe.batch_size:
        raise ValueError(f"{n_images} images to train on are fewer than one batch takes ({recipe.batch_size})")
    # Before the first step changes the weights.
    settings = _settings(checkpoint, named, recipe, renderers, teachers)
    module = ClipTrainingModule(checkpoint, recipe, sources, phrases, options, teachers)
    fit(module, options, settings=settings, max_epochs=recipe.epochs, accumulate=recipe.accumulate)
    folder = options.output / "clip"
    if module.trainer.is_global_zero:
        if checkpoint.taught_names is not None:
            shown = (phrase for source in named if source.has_classes for phrase in source.phrases)
            checkpoint = replace(checkpoint, taught_names=(*checkpoint.taught_names, *shown))
        # Half precision on disk: the service runs bf16 or fp32 from it, and it costs no accuracy.
        save_clip(checkpoint, folder, dtype=torch.float16)
    return folder


def _settings(
    checkpoint: ClipCheckpoint,
    sources: Sequence[PairSource],
    recipe: ClipRecipe,
    renderers: Sequence[Renderer],
    teachers: Teachers | None,
) -> dict[str, object]:
    """Return everything that trained weights depend on."""
    taught = () if teachers is None else teachers.checkpoints
    by_content = {"rendering", "teachers"}
    return {
        "model": digest_modules(checkpoint.model, facts=to_json(checkpoint.config)),
        "data": {source.name: source.digest for source in sources},
        "rendering": hashlib.sha256(" ".join(renderer.version for renderer in renderers).encode()).hexdigest(),
        "teachers": {str(i): digest_modules(teacher.model) for i, teacher in enumerate(taught)},
        **{name: value for name, value in asdict(recipe).items() if name not in by_content},
    }


def _renderings(recipe: ClipRecipe) -> list[Rendering]:
    return [recipe.rendering, *([Rendering()] if recipe.both_routes else [])]


def _with_own_names(pairs: Sequence[PairSource]) -> list[PairSource]:
    """Give sources of one name a number, so that their validation accuracies are logged apart."""
    names = [source.name for source in pairs]
    return [
        replace(source, name=f"{source.name}-{names[: i + 1].count(source.name)}")
        if source.name in names[:i]
        else source
        for i, source in enumerate(pairs)
    ]


def _training_source(
    source: PairSource, phrases: ClassPrompts, renderer: Renderer, recipe: ClipRecipe, seed: int, cache: Path
) -> TrainingSource:
    train, validation = split_validation(source, recipe.validation_per_class, seed)
    if recipe.thumbnails:
        source = ThumbnailSource.of(source, recipe.thumbnails, seed)
        # Validation sees the images as they are.
        train, validation = source.rows(train), validation * (recipe.thumbnails + 1)
    if not len(validation):
        warnings.warn(f"{source.name}: of fewer than ten captioned images, none is kept for validation", stacklevel=2)
    if recipe.on_the_fly:
        source.check()
        pixels: RowReader = RenderedOnTheFly(source, renderer)
    else:
        pixels = render_to_cache(source, renderer, cache)
    return TrainingSource(
        name=f"{source.name}-{renderer.rendering.route}" if recipe.both_routes else source.name,
        pixels=pixels,
        texts=phrases.add(source),
        has_classes=source.has_classes,
        train=train,
        validation=validation,
    )
