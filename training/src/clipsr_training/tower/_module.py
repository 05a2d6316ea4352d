"""What an image tower is optimized for, as a Lightning module."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from clipsr_training._draws import segment_loader
from clipsr_training._fit import FitOptions
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._depthwise import speed_up_depthwise
from clipsr_training.clip._distillation import distillation_loss
from clipsr_training.clip._preprocess import Fitting, make_preprocess
from clipsr_training.clip._projection import fit_projection
from clipsr_training.clip._train import learning_rate
from clipsr_training.controller._draws import render
from clipsr_training.liif import Upscaler
from clipsr_training.tower._draws import DrawDataset, DrawOptions, TowerBatch, collate, show
from clipsr_training.tower._pool import Pool
from clipsr_training.tower._recipe import TowerRecipe
from clipsr_training.tower._replay import Replay

# Steps between two checkpoints: what a killed run loses at most.
STEPS_PER_SEGMENT = 250
# CLIP clips its learned scale at 100 (Radford et al. 2021, section 2.5).
_LOGIT_SCALE_MAX = math.log(100)
_JUDGED_BATCH = 64


class TowerModule(LightningModule):
    """Trains an image tower beside a text tower whose embeddings of the names are fixed.

    A Lightning epoch is one segment of `STEPS_PER_SEGMENT` steps; draws are numbered by the global step, so a run
    resumed from a segment's checkpoint ends with the weights of an uninterrupted one.

    Args:
        checkpoint: whose image tower and scale are trained.
        upscaler: renders the pictures of the upscaled route; None resizes all.
        recipe: hyperparameters.
        pool: the pictures.
        rows: (to train on, kept off) of the pool.
        names: [P, C, D] unit text embeddings of the pool's names in each of P prompts.
        nouns: [P, A, D] likewise of the replayed nouns.
        replay: what is replayed; None for nothing.
        options: where and how to run.
    """

    mean: Tensor
    std: Tensor
    names: Tensor
    nouns: Tensor
    bridge: Tensor
    is_choice: Tensor

    def __init__(
        self,
        checkpoint: ClipCheckpoint,
        upscaler: Upscaler | None,
        recipe: TowerRecipe,
        pool: Pool,
        rows: tuple[np.ndarray, np.ndarray],
        names: Tensor,
        nouns: Tensor,
        replay: Replay | None,
        options: FitOptions,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.recipe = recipe
        self.pool = pool
        self.train_rows, self.held_out_rows = rows
        self.replay = replay
        self.options = options
        model: Any = checkpoint.model
        self.visual: nn.Module = model.visual.train().to(memory_format=torch.channels_last)
        self.logit_scale: nn.Parameter = model.logit_scale
        speed_up_depthwise(self.visual)
        # Not a module of this one: it is no part of its weights, and never changes.
        self._upscaler = None if upscaler is None else [upscaler.requires_grad_(requires_grad=False).eval()]
        self.draw_options = DrawOptions(
            recipe=recipe,
            preprocess=make_preprocess(
                checkpoint.image_size_px, Fitting.of(checkpoint.config.get("preprocess_cfg", {}))
            ),
            has_upscaler=upscaler is not None,
            seed=options.seed,
        )
        self.register_buffer("mean", torch.tensor(checkpoint.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(checkpoint.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("names", names, persistent=False)
        self.register_buffer("nouns", nouns, persistent=False)
        # From the replayed model's space to that of the texts, through the nouns that both have.
        bridge = torch.zeros(0) if replay is None else fit_projection(replay.texts.cpu(), nouns[0])
        self.register_buffer("bridge", bridge, persistent=False)
        self.register_buffer("is_choice", torch.from_numpy(pool.is_choice), persistent=False)

    def train_dataloader(self) -> DataLoader[TowerBatch]:
        """Return the draws of the current segment, in batches that `collate` makes."""
        return segment_loader(
            self,
            self.recipe,
            lambda n_draws, first: DrawDataset(
                self.pool, self.train_rows, self.draw_options, n_draws=n_draws, first=first
            ),
            collate,
            steps_per_segment=STEPS_PER_SEGMENT,
            n_workers=self.options.n_workers,
        )

    def on_fit_start(self) -> None:
        """Bring what is no part of this module's weights to where it trains."""
        for module in self._upscaler or ():
            module.to(self.device)

    def embed(self, batch: TowerBatch) -> Tensor:
        """Return unit embeddings [B, D] of pictures, rendered as the service renders and rounds them."""
        upscaler = None if self._upscaler is None else self._upscaler[0]
        pixels = render(batch.views, upscaler, self.checkpoint.image_size_px)
        normalized = ((pixels / 255 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return functional.normalize(self.visual(normalized).float(), dim=-1)

    def training_step(self, batch: TowerBatch, batch_idx: int) -> Tensor:
        """Return the cross-entropy over the names of each picture's own source, and how far the replay is left."""
        images = self.embed(batch)
        with torch.no_grad():
            self.logit_scale.clamp_(max=_LOGIT_SCALE_MAX)
        scale = self.logit_scale.exp()
        # Each prompt in its turn: a name's embedding depends little on it, and names are many.
        prompt = self.global_step % len(self.names)
        right = functional.cross_entropy(self.logits(images, self.names[prompt], batch.index), self._targets(batch))
        losses = {"names": right}
        if self.replay is not None:
            target = self.replay.probabilities(self.pool, batch.index)
            divergence = distillation_loss(images, self.nouns[prompt], scale, target)
            losses["replay"] = self.recipe.replay_weight * divergence
            if self.recipe.embedding_weight:
                own = self.replay.embeddings(self.pool, batch.index).to(images.device)
                cosine = (images * functional.normalize(own @ self.bridge.T, dim=-1)).sum(dim=-1).mean()
                losses["embedding"] = self.recipe.embedding_weight * (1 - cosine)
        loss = torch.stack(list(losses.values())).sum()
        size = len(batch.index)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        for name, value in losses.items():
            self.log(f"train/{name}", value, prog_bar=True, batch_size=size)
        self.log("train/logit_scale", scale, batch_size=size)
        return loss

    def logits(self, images: Tensor, names: Tensor, index: Tensor) -> Tensor:
        """Return scaled cosines [B, C], minus infinity for names that a picture's source does not have.

        Names of different sources overlap ("cat" and "Egyptian cat"), so no picture is pushed away from another's.
        """
        with torch.autocast(images.device.type, enabled=False):
            cosines = images.float() @ names.T
            sources = torch.from_numpy(self.pool.source[index.cpu().numpy()]).to(images.device)
            return (self.logit_scale.exp() * cosines).masked_fill(~self.is_choice[sources], -math.inf)

    def _targets(self, batch: TowerBatch) -> Tensor:
        return torch.from_numpy(self.pool.name[batch.index.cpu().numpy()]).to(batch.index.device)

    def on_train_epoch_end(self) -> None:
        """Log what is known of pictures that were kept off."""
        for name, accuracy in self.judge().items():
            self.log(f"held_out/{name}", accuracy, prog_bar=True, batch_size=1, rank_zero_only=True)

    @torch.no_grad()
    def judge(self) -> dict[str, float]:
        """Return top-1 on the kept-off pictures of each source, as they are, among its names."""
        self.visual.eval()
        right = np.zeros(len(self.held_out_rows), dtype=bool)
        for start in range(0, len(self.held_out_rows), _JUDGED_BATCH):
            rows = self.held_out_rows[start : start + _JUDGED_BATCH]
            draws = [show(self.pool.square(int(row)), int(row), self.draw_options) for row in rows]
            batch = cast("TowerBatch", self.transfer_batch_to_device(collate(draws), self.device, 0))
            best = self.logits(self.embed(batch), self.names[0], batch.index).argmax(dim=1)
            right[start : start + len(rows)] = (best == self._targets(batch)).cpu().numpy()
        self.visual.train()
        sources = self.pool.source[self.held_out_rows]
        return {
            f"{number}-{source.name}": float(right[sources == number].mean())
            for number, source in enumerate(self.pool.sources)
            if (sources == number).any()
        }

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW, the projection and the scale at their own rate, and the per-step schedule."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            is_head = name.startswith("visual.head.") or name == "logit_scale"
            groups.setdefault((is_head, parameter.ndim >= 2), []).append(parameter)
        optimizer = torch.optim.AdamW(
            {
                "params": parameters,
                "lr": self.recipe.head_lr if is_head else self.recipe.lr,
                "weight_decay": self.recipe.weight_decay if decays else 0.0,
            }
            for (is_head, decays), parameters in groups.items()
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, partial(learning_rate, self.recipe.steps, self.recipe.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
