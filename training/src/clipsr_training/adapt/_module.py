"""What is optimized, and how weights are judged without labels, as a Lightning module."""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from clipsr_training._draws import segment_loader
from clipsr_training._fit import FitOptions
from clipsr_training.adapt._photos import AdaptBatch, DrawDataset, DrawOptions, Photos, collate, draw
from clipsr_training.adapt._recipe import AdaptRecipe
from clipsr_training.adapt._rendering import quantize, render_canvases
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._depthwise import speed_up_depthwise
from clipsr_training.clip._distillation import distillation_loss, soften
from clipsr_training.clip._folding import fold_batch_norms
from clipsr_training.clip._preprocess import Fitting, make_preprocess
from clipsr_training.liif import Upscaler
from clipsr_training.liif._upscaler import to_uint8

# Steps between two checkpoints: what a killed run loses at most.
STEPS_PER_SEGMENT = 200
# Part of the run in which the pixels weigh as much as the answer: an upscaler that renders something first.
_PIXEL_PHASE = 0.2
# The habit of LIIF's fast recipe: with a peak rate of 1e-3 the first steps diverge without a warm-up.
_WARMUP_STEPS = 100
_LAST_RATE = 0.01
# Draws of held-out photos have numbers that no training draw reaches.
_HELD_OUT_DRAWS = 1 << 40
_N_SHOWN = 6


class AdaptModule(LightningModule):
    """Teaches an upscaler, or the tower too, to answer a thumbnail as the frozen tower answers its photo.

    A Lightning epoch is one segment of `STEPS_PER_SEGMENT` steps; draws are numbered by the global step, so a run
    resumed from a segment's checkpoint ends with the weights of an uninterrupted one.
    """

    mean: Tensor
    std: Tensor
    anchors: Tensor

    def __init__(
        self,
        checkpoint: ClipCheckpoint,
        upscaler: Upscaler,
        recipe: AdaptRecipe,
        photos: Photos,
        held_out: Photos,
        anchors: Tensor,
        options: FitOptions,
        *,
        teacher_upscaler: Upscaler | None = None,
    ) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.recipe = recipe
        self.photos = photos
        self.options = options
        self.upscaler = upscaler.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        visual = cast("nn.Module", checkpoint.model.visual).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.tower = visual.requires_grad_(requires_grad=recipe.tune == "tower")
        # Not modules of this one: they are no part of its weights, and never change.
        self._frozen = [copy.deepcopy(visual).requires_grad_(requires_grad=False).eval()]
        self._fast_frozen = [fold_batch_norms(self._frozen[0], checkpoint.image_size_px)]
        self._teacher_upscaler = [
            copy.deepcopy(teacher_upscaler or upscaler).requires_grad_(requires_grad=False).eval()
        ]
        speed_up_depthwise(self.student)
        raise_scale(self.upscaler, recipe.scale_max)
        self._first_weights = {k: v.detach().cpu().clone() for k, v in self.upscaler.state_dict().items()}
        # Part of the tower's change that is kept; None until that is decided.
        self.tower_change_kept: float | None = None
        self.draw_options = DrawOptions(
            preprocess=make_preprocess(
                checkpoint.image_size_px, Fitting.of(checkpoint.config.get("preprocess_cfg", {}))
            ),
            image_size_px=checkpoint.image_size_px,
            teacher_side_px=recipe.teacher_side_px,
            teacher_both_routes=recipe.teacher_both_routes,
            max_noise=recipe.max_noise,
            damaged_share=recipe.damaged_share,
            seed=options.seed,
        )
        self.register_buffer("mean", torch.tensor(checkpoint.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(checkpoint.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("anchors", anchors, persistent=False)
        self.logit_scale = torch.tensor(checkpoint.logit_scale)
        self.held_out = [draw(held_out.square(i), _HELD_OUT_DRAWS + i, self.draw_options) for i in range(len(held_out))]
        self.best: tuple[float, dict[str, Tensor]] | None = None

    def train_dataloader(self) -> DataLoader[AdaptBatch]:
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
        for module in (*self._frozen, *self._fast_frozen, *self._teacher_upscaler):
            module.to(self.device)

    def on_train_start(self) -> None:
        """Judge the weights as they are, so that a run can't end with worse ones."""
        if self.best is None:
            self._judge()

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of the tower: its normalization must not follow the thumbnails."""
        self.tower.eval()

    @property
    def student(self) -> nn.Module:
        """The tower that sees thumbnails: the one that is tuned, or the frozen one."""
        return self.tower if self.recipe.tune == "tower" else self._fast_frozen[0]

    def encode(self, tower: nn.Module, pixels: Tensor) -> Tensor:
        """Map RGB in [0, 1] [B, 3, R, R] to unit embeddings [B, D]."""
        normalized = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return functional.normalize(tower(normalized).float(), dim=-1)

    def teach(self, batch: AdaptBatch) -> Tensor:
        """Return what the frozen tower says of the photos, [B, D] of unit length."""
        return self._answer(batch, self._seen_by_teacher(batch))

    @torch.no_grad()
    def _answer(self, batch: AdaptBatch, seen: Tensor) -> Tensor:
        target = self.encode(self._fast_frozen[0], seen)
        if batch.resized is None:
            return target
        return functional.normalize(target + self.encode(self._fast_frozen[0], batch.resized / 255), dim=-1)

    @torch.no_grad()
    def _seen_by_teacher(self, batch: AdaptBatch) -> Tensor:
        if not batch.reduced:
            return batch.photo / 255
        rendered = render_canvases(self._teacher_upscaler[0], batch.reduced, self.checkpoint.image_size_px)
        return to_uint8(rendered) / 255

    def training_step(self, batch: AdaptBatch, batch_idx: int) -> Tensor:
        """Return the loss: 1 - cosine, the divergence over the anchors, pixels, and the anchor of a tuned tower."""
        seen = self._seen_by_teacher(batch)
        target = self._answer(batch, seen)
        sr = render_canvases(self.upscaler, batch.thumbnails, self.checkpoint.image_size_px)
        student = self.encode(self.student, quantize(sr))
        cosine = (student * target).sum(dim=-1)
        divergence = distillation_loss(
            student, self.anchors, self.logit_scale, soften(self.logit_scale, target, self.anchors)
        )
        pixels = (sr - seen).abs().mean()
        loss = (1 - cosine).mean() + divergence + self._pixel_weight() * pixels
        if self.recipe.tune == "tower":
            own = self.encode(self.tower, batch.photo / 255)
            first = target if not batch.reduced else self.encode(self._fast_frozen[0], batch.photo / 255).detach()
            loss = loss + (1 - (own * first).sum(dim=-1)).mean()
        size = len(batch.photo)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        self.log("train/cosine", cosine.mean(), prog_bar=True, batch_size=size)
        self.log("train/divergence", divergence, batch_size=size)
        self.log("train/pixels_l1", pixels, batch_size=size)
        return loss

    def _pixel_weight(self) -> float:
        is_early = self.global_step < _PIXEL_PHASE * self.recipe.steps
        return max(1.0, self.recipe.pixel_weight) if is_early else self.recipe.pixel_weight

    def on_train_epoch_end(self) -> None:
        """Judge the weights on photos that were kept off, and log pictures of what they make of some."""
        if self._is_tower_decided_by(self.global_step):
            self.decide_tower()
        agreement = self._judge()
        if isinstance(self.logger, TensorBoardLogger) and self.trainer.is_global_zero:
            self.logger.experiment.add_scalar("held_out/agreement", agreement, self.global_step)
            self.logger.experiment.add_image(
                "samples/thumbnail_model_photo", self.sample_picture(), self.global_step, dataformats="HWC"
            )
        self.log("agreement", agreement, prog_bar=True, logger=False, batch_size=1, rank_zero_only=True)

    def _judge(self) -> float:
        """Return the agreement, and keep the weights where none before had a higher one."""
        agreement = self.agreement()
        if self.best is None or agreement > self.best[0]:
            self.best = agreement, {k: v.detach().cpu().clone() for k, v in self.tuned_state().items()}
        return agreement

    def tuned_state(self) -> dict[str, Tensor]:
        """Return the weights that change."""
        parts = {"upscaler": self.upscaler, **({"tower": self.tower} if self.recipe.tune == "tower" else {})}
        return {
            f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()
        }

    @torch.no_grad()
    def agreement(self) -> float:
        """Return the share of held-out thumbnails whose best anchor is the teacher's of the photo."""
        n_equal = 0
        for batch in self._held_out_batches():
            sr = render_canvases(self.upscaler, batch.thumbnails, self.checkpoint.image_size_px)
            student = self.encode(self.student, to_uint8(sr) / 255)
            n_equal += int((self.best_anchor(student) == self.best_anchor(self.teach(batch))).sum())
        return n_equal / len(self.held_out)

    def best_anchor(self, features: Tensor) -> Tensor:
        """Return the index of the anchor with the highest cosine, [B]."""
        with torch.autocast(features.device.type, enabled=False):
            return (features @ self.anchors.T).argmax(dim=1)

    def _held_out_batches(self) -> list[AdaptBatch]:
        size = self.recipe.batch_size
        parts = (self.held_out[i : i + size] for i in range(0, len(self.held_out), size))
        return [cast("AdaptBatch", self.transfer_batch_to_device(collate(part), self.device, 0)) for part in parts]

    @torch.no_grad()
    def sample_picture(self) -> np.ndarray:
        """Return held-out thumbnails (each pixel a block), what the model makes of them, and the photos, RGB uint8."""
        shown, size = self.held_out[:_N_SHOWN], self.checkpoint.image_size_px
        batch = cast("AdaptBatch", self.transfer_batch_to_device(collate(shown), self.device, 0))
        sr = to_uint8(render_canvases(self.upscaler, batch.thumbnails, size)).permute(0, 2, 3, 1).cpu().numpy()
        blocks = [_in_blocks(d.thumbnail, size) for d in shown]
        photos = [d.photo.transpose(1, 2, 0) for d in shown]
        return np.concatenate([np.concatenate(row, axis=1) for row in (blocks, list(sr), photos)])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the best weights so far, which a resumed run chooses from as well, and whether the tower is decided."""
        checkpoint["best"] = self.best
        checkpoint["tower_change_kept"] = self.tower_change_kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See `on_save_checkpoint`."""
        self.best = checkpoint["best"]
        self.tower_change_kept = checkpoint["tower_change_kept"]

    def restore_best(self) -> float:
        """Take the weights with the highest agreement; returns it."""
        assert self.best is not None, "weights are judged before the first step"
        agreement, state = self.best
        self.load_state_dict({k: v.to(self.device) for k, v in state.items()}, strict=False)
        return agreement

    def decide_tower(self) -> None:
        """Choose the tower that the upscaler is fitted to from here on, once.

        The best weights so far belong to another tower, so the choice starts again: with the upscaler as it is,
        and with the one that the run started from.
        """
        if self.recipe.tune != "tower" or self.tower_change_kept is not None:
            return
        self.tower_change_kept = self.interpolate_tower()
        self.best = None
        tuned = {k: v.detach().clone() for k, v in self.upscaler.state_dict().items()}
        for weights in (self._first_weights, tuned):
            self.upscaler.load_state_dict(weights)
            self._judge()

    def _is_tower_decided_by(self, step: int) -> bool:
        return step >= self.recipe.tower_part * self.recipe.steps

    @torch.no_grad()
    def interpolate_tower(self) -> float:
        """Go back from the tuned tower towards the one it was, until undamaged photos are answered nearly as before.

        Returns:
            The part of the change that is kept; 0 for none.

        Source: Wortsman et al. 2022 (WiSE-FT), interpolation of weights.
        """
        self._frozen[0].to(self.device)
        first = self._frozen[0].state_dict()
        last = {name: value.clone() for name, value in self.tower.state_dict().items()}
        for step in range(self.recipe.interpolation_steps, 0, -1):
            part = step / self.recipe.interpolation_steps
            self.tower.load_state_dict({k: _between(first[k], last[k], part) for k in first})
            if self.disagreement() <= self.recipe.max_disagreement:
                return part
        self.tower.load_state_dict(first)
        return 0.0

    def disagreement(self) -> float:
        """Return the share of undamaged held-out photos whose best anchor is another than the frozen tower's."""
        n_other = 0
        for batch in self._held_out_batches():
            own, first = (self.best_anchor(self.encode(t, batch.photo / 255)) for t in (self.tower, self._frozen[0]))
            n_other += int((own != first).sum())
        return n_other / len(self.held_out)

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW and the per-step schedule: warm-up, then cosine to a hundredth, or 0 for a tower decided."""
        groups = [{"params": [p for p in self.upscaler.parameters() if p.requires_grad], "lr": self.recipe.lr}]
        if self.recipe.tune == "tower":
            groups.append({"params": list(self.tower.parameters()), "lr": self.recipe.tower_lr})
        optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
        rates = [self._rate, self._tower_rate][: len(groups)]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        steps = self.recipe.steps
        warmup = min(_WARMUP_STEPS, steps // 10)
        if step < warmup:
            return (step + 1) / warmup
        falling = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        return _LAST_RATE + (1 - _LAST_RATE) * falling

    def _tower_rate(self, step: int) -> float:
        # Not frozen: devices that train together expect a gradient of every weight that had one.
        return 0.0 if self._is_tower_decided_by(step) else self._rate(step)


def _in_blocks(image: np.ndarray, size_px: int) -> np.ndarray:
    index = np.arange(size_px) * len(image) // size_px
    return image[index][:, index]


def _between(first: Tensor, last: Tensor, part: float) -> Tensor:
    return torch.lerp(first, last, part) if first.is_floating_point() else last


def raise_scale(upscaler: Upscaler, scale_max: float) -> None:
    """Let the upscaler tell scales apart up to this one; LIIF does so up to any."""
    upscaler.scale_max = max(upscaler.scale_max, scale_max)
