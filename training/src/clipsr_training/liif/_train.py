"""Training of upscalers on Lightning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from clipsr_training._fit import FitOptions, deal_out, fit, open_run
from clipsr_training._identity import digest_files, digest_modules
from clipsr_training.liif._checkpoint import save_liif
from clipsr_training.liif._data import PatchBatch, PatchDataset, read_images
from clipsr_training.liif._evaluate import make_sample
from clipsr_training.liif._recipes import LiifRecipe
from clipsr_training.liif._upscaler import Upscaler

# Published warm-up does not exist; with a peak rate of 1e-3 the first steps diverge without one.
_WARMUP_STEPS = 200
# Steps between two checkpoints: what a killed run loses at most.
STEPS_PER_SEGMENT = 250
# Side of the region whose pictures are logged, and the largest scale they are shown at.
_SAMPLE_SIDE_PX = 192
_SAMPLE_SCALE = 4


class LiifTrainingModule(LightningModule):
    """L1 on query points, Adam, and the recipe's schedule.

    A Lightning epoch is one segment of `STEPS_PER_SEGMENT` steps; data are indexed by the global step, so a run
    resumed from a segment's checkpoint ends with the weights of an uninterrupted one.
    """

    def __init__(
        self,
        recipe: LiifRecipe,
        images: Sequence[np.ndarray],
        *,
        seed: int,
        n_workers: int,
        start: Upscaler | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.images = images
        self.seed = seed
        self.n_workers = n_workers
        self.model = (start or recipe.build_model()).train().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def train_dataloader(self) -> DataLoader[PatchBatch]:
        """Return the samples of the current segment."""
        recipe = self.recipe
        done = self.current_epoch * STEPS_PER_SEGMENT
        # With more devices a step has more samples, not a segment fewer steps.
        samples_per_step = recipe.batch_size * self.trainer.world_size
        dataset = PatchDataset(
            self.images,
            n_samples=min(STEPS_PER_SEGMENT, recipe.steps - done) * samples_per_step,
            first_index=done * samples_per_step,
            patch_size=recipe.patch_size,
            sample_q=recipe.sample_q,
            scale_max=recipe.scale_max,
            seed=self.seed,
            max_noise=recipe.max_noise,
        )
        return DataLoader(
            dataset, batch_size=recipe.batch_size, sampler=deal_out(self, dataset), num_workers=self.n_workers
        )

    def training_step(self, batch: PatchBatch, batch_idx: int) -> Tensor:
        """Return the mean absolute error in [0, 1] units, and log it with PSNR in dB."""
        feat = self.model.features(batch.lr.contiguous(memory_format=torch.channels_last))
        sr = self.model.query(feat, batch.u, batch.cell).float()
        loss = (sr - batch.hr).abs().mean()
        self.log("train/l1", loss, prog_bar=True)
        mse = (sr.detach() - batch.hr).square().mean()
        self.log("train/psnr_db", -10 * torch.log10(mse), prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log a picture of what the model does at the end of the segment; no random draw, so runs stay the same."""
        if isinstance(self.logger, TensorBoardLogger) and self.trainer.is_global_zero:
            picture = sample_picture(self.model, self.images[0], self.recipe.scale_max)
            self.logger.experiment.add_image(
                "samples/input_bicubic_model_truth", picture, self.global_step, dataformats="HWC"
            )

    def configure_optimizers(self) -> dict[str, object]:
        """Return Adam and the per-step schedule."""
        optimizer = torch.optim.Adam((p for p in self.model.parameters() if p.requires_grad), lr=self.recipe.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        if self.recipe.schedule == "step":
            return 0.5 ** (5 * step // self.recipe.steps)
        warmup = min(_WARMUP_STEPS, self.recipe.steps // 10)
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.recipe.steps - warmup)))


def sample_picture(model: Upscaler, image: np.ndarray, scale_max: float) -> np.ndarray:
    """Return input (each pixel a block), bicubic, model and truth side by side, for the middle of an image.

    Args:
        model: the upscaler as it is now.
        image: RGB uint8 [H, W, 3].
        scale_max: largest trained scale; the picture shows the integer below it, from 2 to 4.

    Returns:
        RGB uint8 [S, 4 * S, 3].
    """
    scale = max(2, min(_SAMPLE_SCALE, int(scale_max)))
    side = min(_SAMPLE_SIDE_PX, *image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    sample = make_sample(model, image[top : top + side, left : left + side], scale)
    blocks = sample.lr.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.concatenate((blocks, sample.sr["bicubic"], sample.sr["model"], sample.hr), axis=1)


def run_settings(recipe: LiifRecipe, images: Sequence[np.ndarray], start: Upscaler | None = None) -> dict[str, object]:
    """Return everything that trained weights depend on."""
    pixels = digest_files(lambda i: repr(images[i].shape).encode() + images[i].tobytes(), len(images))
    started = None if start is None else digest_modules(start, facts=str(start.scale_max))
    return {"data": pixels, "upscaler": started, **asdict(recipe)}


def train_liif(
    recipe: LiifRecipe, folders: Sequence[Path], options: FitOptions, *, start: Upscaler | None = None
) -> Path:
    """Train an upscaler and write `liif.safetensors` into the output folder.

    Args:
        recipe: model and hyperparameters.
        folders: searched recursively for high-resolution images.
        options: where and how to run; see `FitOptions`.
        start: what to start from; None builds the recipe's model with random weights.

    Returns:
        Path of the weights.

    Raises:
        FileNotFoundError: a folder is missing or holds no image.
        ValueError: an image cannot be read, or is smaller than a patch.
    """
    with open_run(options):
        images = read_images(folders, least_side_px=recipe.patch_size)
        return _train_in_folder(recipe, images, options, start)


def _train_in_folder(
    recipe: LiifRecipe, images: Sequence[np.ndarray], options: FitOptions, start: Upscaler | None
) -> Path:
    options.seed_everything()
    settings = run_settings(recipe, images, start)
    module = LiifTrainingModule(recipe, images, seed=options.seed, n_workers=options.n_workers, start=start)
    fit(module, options, settings=settings, max_epochs=math.ceil(recipe.steps / STEPS_PER_SEGMENT))
    path = options.output / "liif.safetensors"
    if module.trainer.is_global_zero:
        save_liif(module.model, path)
    return path
