"""What a controller is optimized for, as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from clipsr_training._draws import segment_loader
from clipsr_training._fit import FitOptions, of_all_devices
from clipsr_training.adapt._photos import Photos
from clipsr_training.clip import ClipCheckpoint, multi_positive_contrastive_loss
from clipsr_training.clip._depthwise import speed_up_depthwise
from clipsr_training.clip._distillation import distillation_loss, soften
from clipsr_training.clip._folding import fold_batch_norms
from clipsr_training.clip._preprocess import Fitting, make_preprocess
from clipsr_training.clip._train import learning_rate
from clipsr_training.controller._blocks import run_tower
from clipsr_training.controller._captions import Captions
from clipsr_training.controller._controller import Controller, Encoding, encode
from clipsr_training.controller._draws import ControllerBatch, Draw, DrawDataset, DrawOptions, collate, draw, render
from clipsr_training.controller._head import Judged
from clipsr_training.controller._recipe import ControllerRecipe
from clipsr_training.liif import Upscaler

# Steps between two checkpoints: what a killed run loses at most.
STEPS_PER_SEGMENT = 200
# CLIP clips its learned scale at 100 (Radford et al. 2021, section 2.5).
_LOGIT_SCALE_MAX = math.log(100)
# Draws of held-out photos have numbers that no training draw reaches.
_HELD_OUT_DRAWS = 1 << 40
_MORE_DRAWS = 1 << 41


class Texts(NamedTuple):
    """What the frozen text tower says of the texts that are trained with.

    Attributes:
        features: [T, D] of unit length: anchors of "distill", or all captions of "daclip".
        captions: which of them describe which photo, in "daclip".
    """

    features: Tensor
    captions: Captions | None = None


class HeldOut(NamedTuple):
    """What was found on pictures that were kept off training.

    Attributes:
        cosine: mean of the controlled embedding of damaged pictures with the plain one of undamaged ones.
        plain_cosine: likewise of the plain embedding.
        kinds_top1: share of the pictures damaged in one way, or in none, whose kind is named.
        clean_recall: share of the undamaged pictures that are called clean; NaN where there are none.
    """

    cosine: float
    plain_cosine: float
    kinds_top1: float
    clean_recall: float


class ControllerModule(LightningModule):
    """Trains a controller of a frozen tower.

    A Lightning epoch is one segment of `STEPS_PER_SEGMENT` steps; draws are numbered by the global step, so a run
    resumed from a segment's checkpoint ends with the weights of an uninterrupted one.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        checkpoint: ClipCheckpoint,
        controller: Controller,
        upscaler: Upscaler | None,
        recipe: ControllerRecipe,
        photos: Photos,
        held_out: Photos,
        texts: Texts,
        options: FitOptions,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.recipe = recipe
        self.photos = photos
        self.options = options
        self.texts = texts
        self.controller = controller.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        visual = cast("nn.Module", checkpoint.model.visual).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        # Not modules of this one: they are no part of its weights, stay in evaluation mode, and never change.
        frozen = visual.requires_grad_(requires_grad=False).eval()
        self._tower = [fold_batch_norms(frozen, checkpoint.image_size_px)]
        for module in (self.controller, self._tower[0]):
            speed_up_depthwise(module)
        self._upscaler = None if upscaler is None else [upscaler.requires_grad_(requires_grad=False).eval()]
        cfg = checkpoint.config
        native_from = cfg.get("clipsr_cfg", {}).get("native_min_side_px", checkpoint.image_size_px // 2)
        self.draw_options = DrawOptions(
            recipe=recipe,
            preprocess=make_preprocess(checkpoint.image_size_px, Fitting.of(cfg.get("preprocess_cfg", {}))),
            image_size_px=checkpoint.image_size_px,
            upscaled_below_px=0 if upscaler is None else native_from,
            seed=options.seed,
        )
        self.register_buffer("mean", torch.tensor(checkpoint.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(checkpoint.std).view(1, 3, 1, 1), persistent=False)
        self.model_scale = torch.tensor(checkpoint.logit_scale)
        self.held_out = [
            draw(held_out.square(i), i, _HELD_OUT_DRAWS + i, self.draw_options) for i in range(len(held_out))
        ]

    def train_dataloader(self) -> DataLoader[ControllerBatch]:
        """Return the draws of the current segment, in batches that `collate` makes."""
        return segment_loader(
            self,
            self.recipe,
            lambda n_draws, first: DrawDataset(self.photos, self.draw_options, n_draws=n_draws, first=first),
            collate,
            steps_per_segment=STEPS_PER_SEGMENT,
            n_workers=self.options.n_workers,
        )

    def on_fit_start(self) -> None:
        """Bring what is no part of this module's weights to where it trains."""
        for module in (*self._tower, *(self._upscaler or ())):
            module.to(self.device)
        self.texts = self.texts._replace(features=self.texts.features.to(self.device))

    def see(self, batch: ControllerBatch) -> tuple[Tensor, Tensor]:
        """Return the encoder's input [B, 3, R, R] for the damaged and the undamaged pictures."""
        upscaler = None if self._upscaler is None else self._upscaler[0]
        pixels = (render(views, upscaler, self.checkpoint.image_size_px) for views in (batch.damaged, batch.undamaged))
        damaged, undamaged = ((p / 255 - self.mean) / self.std for p in pixels)
        return tuple(p.contiguous(memory_format=torch.channels_last) for p in (damaged, undamaged))  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def teach(self, pixels: Tensor) -> Tensor:
        """Return the frozen tower's unit embeddings [B, D]."""
        return functional.normalize(run_tower(self._tower[0], pixels).float(), dim=-1)

    def training_step(self, batch: ControllerBatch, batch_idx: int) -> Tensor:
        """Return the recipe's loss."""
        with torch.no_grad():
            self.controller.logit_scale.clamp_(max=_LOGIT_SCALE_MAX)
        damaged, undamaged = self.see(batch)
        encoding = encode(self._tower[0], self.controller, damaged, is_gated=False)
        if self.recipe.objective == "daclip":
            losses = self._daclip_losses(batch, encoding)
        else:
            losses = self._distill_losses(batch, encoding, self.teach(undamaged))
        loss = torch.stack(list(losses.values())).sum()
        size = len(batch.target)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        for name, value in losses.items():
            self.log(f"train/{name}", value, prog_bar=True, batch_size=size)
        self.log("train/logit_scale", self.controller.logit_scale.exp(), batch_size=size)
        return loss

    def _distill_losses(self, batch: ControllerBatch, encoding: Encoding, target: Tensor) -> dict[str, Tensor]:
        """Pull to the undamaged embedding, its softened probabilities of the anchors, and name the damage."""
        student = functional.normalize(encoding.content.float(), dim=-1)
        anchors, scale = self.texts.features, self.model_scale
        with torch.autocast(student.device.type, enabled=False):
            kinds = functional.cross_entropy(self.controller.logit_scale.exp() * encoding.cosines, batch.target)
        return {
            "pull": 1 - (student * target).sum(dim=-1).mean(),
            "divergence": distillation_loss(student, anchors, scale, soften(scale, target, anchors)),
            "kinds": self.recipe.kind_weight * kinds,
        }

    def _daclip_losses(self, batch: ControllerBatch, encoding: Encoding) -> dict[str, Tensor]:
        """Contrast pictures with captions, and damage with its names, over the batch of all devices."""
        rows, numbers, target = (of_all_devices(self, part) for part in (batch.rows, batch.numbers, batch.target))
        content, damage = (
            of_all_devices(self, functional.normalize(features.float(), dim=-1))
            for features in (encoding.content, encoding.degradation)
        )
        assert self.texts.captions is not None, "this recipe has captions"
        present, is_right = self.texts.captions.of_batch(rows.tolist(), numbers.tolist(), self.options.seed)
        scale = self.controller.logit_scale.exp()
        own = self.texts.features[torch.from_numpy(present).to(content.device)]
        occurs = target.sum(dim=0) > 0
        words = functional.normalize(self.controller.prototypes[occurs], dim=-1)
        return {
            "captions": multi_positive_contrastive_loss(content, own, scale, is_right.to(content.device)),
            "kinds": multi_positive_contrastive_loss(damage, words, scale, target[:, occurs] > 0),
        }

    def on_train_epoch_end(self) -> None:
        """Log what pictures show that were kept off."""
        found = self.judge()
        if isinstance(self.logger, TensorBoardLogger) and self.trainer.is_global_zero:
            for name, value in found._asdict().items():
                self.logger.experiment.add_scalar(f"held_out/{name}", value, self.global_step)
        for name in ("cosine", "kinds_top1"):
            value = getattr(found, name)
            self.log(f"held_out_{name}", value, prog_bar=True, logger=False, batch_size=1, rank_zero_only=True)

    @torch.no_grad()
    def embed_plain(self, draws: Sequence[Draw]) -> Judged:
        """Embed both pictures of N draws by the frozen tower: 2N rows, as they are and then as they were."""
        parts = [[self.teach(pixels) for pixels in self.see(batch)] for batch in self._batches(draws)]
        damaged = np.array([d.target.argmax() != self.controller.clean for d in draws])
        return Judged(
            embeddings=torch.cat([part for pair in zip(*parts, strict=True) for part in pair]).cpu().numpy(),
            is_damaged=np.concatenate([damaged, np.zeros_like(damaged)]),
        )

    def _batches(self, draws: Sequence[Draw]) -> Iterator[ControllerBatch]:
        for start in range(0, len(draws), self.recipe.batch_size):
            part = collate(draws[start : start + self.recipe.batch_size])
            yield cast("ControllerBatch", self.transfer_batch_to_device(part, self.device, 0))

    def more_draws(self, n: int) -> list[Draw]:
        """Draw pictures of the training photos that training itself did not."""
        rows = (i % len(self.photos) for i in range(n))
        return [draw(self.photos.square(row), row, _MORE_DRAWS + i, self.draw_options) for i, row in enumerate(rows)]

    @torch.no_grad()
    def judge(self) -> HeldOut:
        """Measure on the held-out pictures, with the gate, as the controller is used."""
        was_training = self.controller.training
        self.controller.eval()
        cosines: list[Tensor] = []
        named: list[Tensor] = []
        for batch in self._batches(self.held_out):
            damaged, undamaged = self.see(batch)
            encoding = encode(self._tower[0], self.controller, damaged)
            target = self.teach(undamaged)
            answers = (functional.normalize(encoding.content.float(), dim=-1), self.teach(damaged))
            cosines.append(torch.stack([(answer * target).sum(dim=-1) for answer in answers]))
            named.append(torch.stack([encoding.cosines.argmax(dim=1), batch.target.argmax(dim=1)]))
        self.controller.train(was_training)
        controlled, plain = torch.cat(cosines, dim=1).mean(dim=1).tolist()
        found, true = torch.cat(named, dim=1)
        is_single = torch.tensor([d.target.max() == 1 for d in self.held_out], device=found.device)
        is_clean = true == self.controller.clean
        is_right = (found == true).float()
        return HeldOut(
            cosine=controlled,
            plain_cosine=plain,
            kinds_top1=float(is_right[is_single].mean()),
            clean_recall=float(is_right[is_clean].mean()),
        )

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW and the per-step schedule."""
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name, parameter in self.controller.named_parameters():
            if parameter.requires_grad:
                rate = self.recipe.lr if name.startswith("tower.") else self.recipe.connection_lr
                groups.setdefault((rate, parameter.ndim >= 2), []).append(parameter)
        decay = self.recipe.weight_decay
        optimizer = torch.optim.AdamW(
            [
                {"params": own, "lr": rate, "weight_decay": decay if decays else 0.0}
                for (rate, decays), own in groups.items()
            ]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, partial(learning_rate, self.recipe.steps, self.recipe.warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
