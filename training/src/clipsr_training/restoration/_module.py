"""Training of a restorer as a Lightning module."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clipsr_training._draws import segment_loader
from clipsr_training._fit import FitOptions
from clipsr_training.adapt._photos import Photos
from clipsr_training.clip._train import learning_rate
from clipsr_training.restoration._contexts import ContextSource
from clipsr_training.restoration._draws import DrawDataset, DrawOptions, Group, collate, draw
from clipsr_training.restoration._recipe import RestorerRecipe
from clipsr_training.restoration._restorer import Contexts, RestoreOptions, Restorer, restore, to_pixels
from clipsr_training.restoration._schedule import Schedule
from clipsr_training.restoration._unet import ConditionalUNet

# Steps between two checkpoints: what a killed run loses at most.
STEPS_PER_SEGMENT = 200
_WARMUP = 0.02
# Draws of held-out photos have numbers that no training draw reaches.
_HELD_OUT_DRAWS = 1 << 40
_N_SHOWN = 8
# Steps of the sampler, in pictures and figures of held-out photos.
_SHOWN_STEPS = (1, 5)


def build_restorer(recipe: RestorerRecipe, source: ContextSource | None) -> Restorer:
    """Return an untrained restorer, which returns the damaged picture as it is."""
    config = recipe.network(None if source is None else source.dim)
    network = ConditionalUNet(config)
    nn.init.zeros_(network.final_conv.weight)
    nn.init.zeros_(cast("Tensor", network.final_conv.bias))
    return Restorer(network, Schedule(), "residual", None if source is None else source.name)


class RestorerModule(LightningModule):
    """Trains a network to predict the residual of a damaged picture, at every time of the SDE.

    A Lightning epoch is one segment of `STEPS_PER_SEGMENT` steps; draws are numbered by the global step, so a run
    resumed from a segment's checkpoint ends with the weights of an uninterrupted one.
    """

    alpha: Tensor
    sigma_bar: Tensor

    def __init__(
        self,
        source: ContextSource | None,
        recipe: RestorerRecipe,
        photos: Sequence[Photos],
        held_out: Sequence[Photos],
        options: FitOptions,
    ) -> None:
        super().__init__()
        self.source = source
        self.recipe = recipe
        self.photos = photos
        self.options = options
        self.restorer = build_restorer(recipe, source)
        schedule = self.restorer.schedule
        self.draw_options = DrawOptions(recipe=recipe, n_times=schedule.n_times, seed=options.seed)
        times = np.arange(schedule.n_times + 1)
        for name, table in (("alpha", schedule.alpha(times)), ("sigma_bar", schedule.sigma_bar(times))):
            self.register_buffer(name, torch.from_numpy(table).float(), persistent=False)
        numbered = [(own, i) for own in held_out for i in range(len(own))]
        self.held_out = [draw(own, i, _HELD_OUT_DRAWS + n, self.draw_options) for n, (own, i) in enumerate(numbered)]

    def train_dataloader(self) -> DataLoader[list[Group]]:
        """Return the draws of the current segment, in batches that `collate` makes."""
        return segment_loader(
            self,
            self.recipe,
            lambda n_draws, first: DrawDataset(self.photos, self.draw_options, n_draws=n_draws, first=first),
            collate,
            steps_per_segment=STEPS_PER_SEGMENT,
            n_workers=self.options.n_workers,
        )

    def training_step(self, batch: list[Group], batch_idx: int) -> Tensor:
        """Return the mean absolute error of the predicted clean pictures, in [0, 1] units."""
        errors = [self._errors(group) for group in batch]
        size = sum(len(group.lq) for group in batch)
        loss = torch.cat([error.abs().mean(dim=(1, 2, 3)) for error in errors]).mean()
        mse = torch.cat([error.detach().square().mean(dim=(1, 2, 3)) for error in errors]).mean()
        self.log("train/l1", loss, prog_bar=True, batch_size=size)
        self.log("train/psnr_db", -10 * torch.log10(mse), prog_bar=True, batch_size=size)
        return loss

    def _errors(self, group: Group) -> Tensor:
        clean, lq = group.clean / 255, group.lq / 255
        alpha, sigma_bar = (table[group.time][:, None, None, None] for table in (self.alpha, self.sigma_bar))
        state = lq + alpha * (clean - lq) + sigma_bar * group.noise
        content, degradation = self.embed(group) or (None, None)
        found = self.restorer.network(state, lq, group.time.float(), content, degradation)
        return lq + found.float() - clean

    @torch.no_grad()
    def embed(self, group: Group) -> Contexts | None:
        """Return both contexts [N, D] of a group, None for a restorer without."""
        return None if self.source is None else self.source.embed(group.lq, group.kinds)

    def on_train_epoch_end(self) -> None:
        """Measure PSNR on held-out photos, and log some of them restored."""
        if not self.trainer.is_global_zero:
            return
        for steps in _SHOWN_STEPS:
            psnr_db = self.held_out_psnr(steps)
            self.log(f"psnr_{steps}", psnr_db, prog_bar=True, logger=False, batch_size=1, rank_zero_only=True)
            if isinstance(self.logger, TensorBoardLogger):
                self.logger.experiment.add_scalar(f"held_out/psnr_db_{steps}", psnr_db, self.global_step)
        if isinstance(self.logger, TensorBoardLogger):
            names = "_".join(("damaged", *(f"{steps}" for steps in _SHOWN_STEPS), "clean"))
            self.logger.experiment.add_image(
                f"samples/{names}", self.sample_picture(), self.global_step, dataformats="HWC"
            )

    @torch.no_grad()
    def held_out_psnr(self, steps: int) -> float:
        """Return PSNR in dB over held-out pictures restored in so many steps: of the mean of their squared errors."""
        mse = [
            (self._restore(group, steps) - group.clean / 255).square().mean(dim=(1, 2, 3)).cpu()
            for group in self._held_out_groups(len(self.held_out))
        ]
        return float(-10 * torch.log10(torch.cat(mse).mean()))

    def _held_out_groups(self, n: int) -> list[Group]:
        size = self.recipe.batch_size
        parts = (self.held_out[i : min(n, i + size)] for i in range(0, n, size))
        groups = [group for part in parts for group in collate(part)]
        return [cast("Group", self.transfer_batch_to_device(group, self.device, 0)) for group in groups]

    def _restore(self, group: Group, steps: int) -> Tensor:
        return restore(self.restorer, group.lq / 255, self.embed(group), RestoreOptions(steps=steps))

    def sample_picture(self) -> np.ndarray:
        """Return held-out pictures of one size, a row each of damaged, restored in few and more steps, and clean."""
        group = max(self._held_out_groups(min(_N_SHOWN, len(self.held_out))), key=lambda g: len(g.lq))
        rows = [group.lq / 255, *(self._restore(group, steps) for steps in _SHOWN_STEPS), group.clean / 255]
        return np.concatenate([np.concatenate([to_pixels(picture) for picture in row], axis=1) for row in rows])

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW and the per-step schedule."""
        optimizer = torch.optim.AdamW(self.restorer.parameters(), lr=self.recipe.lr, weight_decay=1e-4)
        rate = partial(learning_rate, self.recipe.steps, _WARMUP)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
