"""Contrastive training of CLIP models on Lightning."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from timm.optim.muon import Muon
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from clipsr_training import prompts
from clipsr_training._fit import FitOptions, fit
from clipsr_training.clip._checkpoint import ClipCheckpoint, build_clip, bundled_config, load_clip, save_clip
from clipsr_training.clip._data import (
    ClipBatch,
    ClipBatchDataset,
    ConceptTexts,
    LabelledImages,
    read_parquet,
    render_cached,
    split_validation,
)
from clipsr_training.clip._loss import multi_positive_contrastive_loss
from clipsr_training.liif import load_liif

# CLIP clips its learned scale at 100 (Radford et al. 2021, section 2.5).
_LOGIT_SCALE_MAX = math.log(100)
_VALIDATION_BATCH = 500
OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """How a CLIP model is trained.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        optimizer: "adamw" for all weights, or "muon" for the image tower's convolutions and AdamW for the rest.
        lr: peak learning rate of AdamW.
        muon_lr: peak learning rate of Muon, whose updates are scaled to 0.2 of it a weight (arXiv 2502.16982).
        weight_decay: on weights of two and more dimensions.
        warmup: part of the run in which the rate rises linearly; after it the rate falls linearly to zero.
        validation_per_class: images of every class kept off training.
        template_set: prompts that training draws from.
        webp_quality: encode losslessly stored images as WebP of this quality first; see `read_parquet`.
    """

    epochs: int = 20
    batch_size: int = 512
    optimizer: str = "muon"
    lr: float = 1.5e-3
    muon_lr: float = 0.01
    weight_decay: float = 0.1
    warmup: float = 0.15
    validation_per_class: int = 10
    template_set: str = "cifar"
    webp_quality: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validation_per_class"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"unknown optimizer {self.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
        if self.webp_quality is not None and not 1 <= self.webp_quality <= 100:
            raise ValueError(f"webp_quality must be 1 to 100, got {self.webp_quality}")
        if self.template_set not in prompts.template_sets():
            raise ValueError(f"unknown template set {self.template_set!r}; known: {sorted(prompts.template_sets())}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One rendered data set, split; `concepts` index the joint list of concepts."""

    name: str
    pixels: np.ndarray
    concepts: np.ndarray
    train: np.ndarray
    validation: np.ndarray


class ClipTrainingModule(LightningModule):
    """Trains on all sources at once and reports zero-shot accuracy on each source's validation images."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        checkpoint: ClipCheckpoint,
        recipe: ClipRecipe,
        sources: Sequence[Source],
        concepts: Sequence[str],
        seed: int,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.model: Any = checkpoint.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.recipe = recipe
        self.sources = sources
        self.seed = seed
        self.concepts = concepts
        templates = [*prompts.template_sets()[recipe.template_set], "{}", "a low resolution photo of a {}."]
        self.texts = ConceptTexts(concepts, templates, checkpoint.tokenizer)
        self.register_buffer("mean", torch.tensor(checkpoint.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(checkpoint.std).view(1, 3, 1, 1) * 255, persistent=False)

    def train_dataloader(self) -> DataLoader[ClipBatch]:
        """Return the batches of the current epoch."""
        dataset = ClipBatchDataset(
            [s.pixels for s in self.sources],
            [s.concepts for s in self.sources],
            [s.train for s in self.sources],
            self.texts,
            batch_size=self.recipe.batch_size,
            seed=self.seed,
            epoch=self.current_epoch,
        )
        return DataLoader(dataset, batch_size=None)

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, ...]]]:
        """Return one loader a source."""
        loaders: list[DataLoader[tuple[Tensor, ...]]] = []
        for source in self.sources:
            pixels = torch.from_numpy(np.asarray(source.pixels[source.validation]))
            concepts = torch.from_numpy(source.concepts[source.validation])
            loaders.append(DataLoader(TensorDataset(pixels, concepts), batch_size=_VALIDATION_BATCH))
        return loaders

    def normalize(self, pixels: Tensor) -> Tensor:
        """Map uint8 RGB to the model's input."""
        return ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Return the contrastive loss."""
        image_features = functional.normalize(self.model.encode_image(self.normalize(batch.pixels)).float(), dim=-1)
        text_features = functional.normalize(self.model.encode_text(batch.tokens).float(), dim=-1)
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=_LOGIT_SCALE_MAX)
        scale = self.model.logit_scale.exp()
        loss = multi_positive_contrastive_loss(image_features, text_features, scale, batch.is_positive)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.pixels))
        self.log("train/logit_scale", scale, batch_size=len(batch.pixels))
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log zero-shot top-1 among the source's own labels."""
        pixels, concepts = batch
        source = self.sources[dataloader_idx]
        candidates = torch.from_numpy(np.unique(source.concepts)).to(self.device)
        tokens = self.checkpoint.tokenizer([f"a photo of a {self.concepts[c]}." for c in candidates.tolist()]).to(
            self.device
        )
        text_features = functional.normalize(self.model.encode_text(tokens).float(), dim=-1)
        image_features = self.model.encode_image(self.normalize(pixels)).float()
        predicted = candidates[(image_features @ text_features.T).argmax(dim=1)]
        accuracy = (predicted == concepts).float().mean()
        name = f"validation/top1_{source.name}"
        self.log(name, accuracy, prog_bar=True, batch_size=len(pixels), add_dataloader_idx=False)

    def configure_optimizers(self) -> dict[str, object]:
        """Return the optimizer, without decay on gains and biases, and the per-step schedule."""
        recipe = self.recipe
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        convolutions = [p for p in self.model.visual.parameters() if p.requires_grad and p.ndim == 4]
        by_muon = {id(p) for p in convolutions} if recipe.optimizer == "muon" else set[int]()
        groups = [
            {
                "params": [p for p in parameters if p.ndim >= 2 and id(p) not in by_muon],
                "weight_decay": recipe.weight_decay,
            },
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        adamw = {"lr": recipe.lr, "betas": (0.9, 0.98), "eps": 1e-6}
        if by_muon:
            # On images this small Muon is ahead of AdamW from the first epoch on: `--optimizer adamw` shows it. The
            # attention pool stays with AdamW, since its wide square matrices are the costly ones to orthogonalize.
            groups = [{**group, **adamw, "use_fallback": True, "nesterov": False} for group in groups]
            groups.append({"params": convolutions, "weight_decay": recipe.weight_decay, "nesterov": True})
            optimizer = Muon(groups, lr=recipe.muon_lr, momentum=0.95, ns_coefficients="original")
        else:
            optimizer = torch.optim.AdamW(groups, **adamw, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        total = self.recipe.epochs * (sum(len(s.train) for s in self.sources) // self.recipe.batch_size)
        warmup = max(1.0, self.recipe.warmup * total)
        return min((step + 1) / warmup, max(0.0, (total - step) / max(1.0, total - warmup)))


def train_clip(
    config: str, data: Sequence[Path], recipe: ClipRecipe, options: FitOptions, *, upscaler: Path | None
) -> Path:
    """Train a CLIP model on class-labelled images and write a checkpoint folder.

    Args:
        config: name of a bundled configuration, or a checkpoint folder to start from.
        data: Parquet files with `image` and `label`.
        recipe: hyperparameters.
        options: where and how to run; see `FitOptions`.
        upscaler: weights of the upscaler that renders the images; None for bicubic interpolation.

    Returns:
        The folder `clip` in the output folder.

    Raises:
        FileNotFoundError: data, configuration or weights are missing.
        ValueError: a data file does not have the expected columns.
    """
    options.seed_everything()
    checkpoint = load_clip(config) if Path(config).is_dir() else build_clip(bundled_config(config))
    labelled = {path: read_parquet(path, recipe.webp_quality) for path in data}
    concepts = list(dict.fromkeys(name for images in labelled.values() for name in images.classnames))
    sources = [
        _source(path, images, concepts, checkpoint.image_size_px, recipe, options, upscaler)
        for path, images in labelled.items()
    ]
    module = ClipTrainingModule(checkpoint, recipe, sources, concepts, options.seed)
    fit(module, options, max_epochs=recipe.epochs)
    # Half precision on disk: the service runs bf16 or fp32 from it, and it costs no accuracy.
    return save_clip(checkpoint, options.output / "clip", dtype=torch.float16)


def _source(
    path: Path,
    labelled: LabelledImages,
    concepts: Sequence[str],
    image_size_px: int,
    recipe: ClipRecipe,
    options: FitOptions,
    upscaler: Path | None,
) -> Source:
    model: nn.Module | None = load_liif(upscaler) if upscaler else None
    version = hashlib.sha256(upscaler.read_bytes()).hexdigest() if upscaler else "bicubic"
    pixels = render_cached(labelled.images, model, image_size_px, options.output / "rendered", version)
    index = np.array([concepts.index(name) for name in labelled.classnames])
    train, validation = split_validation(labelled.targets, recipe.validation_per_class, options.seed)
    return Source(
        name=path.parent.name or path.stem,
        pixels=pixels,
        concepts=index[labelled.targets],
        train=train,
        validation=validation,
    )
