"""What is optimized, and how agreement with the teachers is measured, as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning import LightningModule
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from clipsr_training._draws import segment_loader
from clipsr_training.text._phrases import PhraseDraws
from clipsr_training.text._recipe import TextRecipe

# Steps between two checkpoints: what a killed run loses at most.
STEPS_PER_SEGMENT = 200
_WARMUP = 0.05
_LAST_RATE = 0.01
_MEASURED_BATCH = 256
# Part of the first layer's random queries and keys that is left: none would stay none, for neither learns without the
# other.
_NEARLY_EQUAL = 0.3
# Penalty of the regression from what is known of pieces to their embeddings, against the mean variance of the former.
_RIDGE = 0.1

Tokenize = Callable[[list[str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Texts that are never drawn, and the taught names among which the nearest is looked for.

    Attributes:
        tokens: [n, L] of the texts.
        targets: [n, D] of them.
        names: [m, D], targets of those names.
    """

    tokens: Tensor
    targets: Tensor
    names: Tensor


class TextModule(LightningModule):
    """Teaches a text tower to place texts as the teachers do.

    A Lightning epoch is one segment of `STEPS_PER_SEGMENT` steps; draws are numbered by the global step, so a run
    resumed from a segment's checkpoint ends with the weights of an uninterrupted one.

    Args:
        tower: to train.
        recipe: hyperparameters.
        draws: returns draws, by their number and that of the first.
        targets: [n, D] of unit length, of each phrase.
        tokenize: maps texts to token ids [B, L].
        measured: what agreement is measured on, by name.
    """

    def __init__(
        self,
        tower: TextTransformer,
        recipe: TextRecipe,
        draws: Callable[[int, int], PhraseDraws],
        targets: np.ndarray,
        tokenize: Tokenize,
        measured: Mapping[str, Measured],
    ) -> None:
        super().__init__()
        self.tower = tower
        self.recipe = recipe
        self.draws = draws
        self.targets = targets
        self.tokenize = tokenize
        self.measured = measured

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the draws of the current segment, in batches that `collate` makes; a tokenizer needs no process."""
        return segment_loader(
            self, self.recipe, self.draws, self.collate, steps_per_segment=STEPS_PER_SEGMENT, n_workers=0
        )

    def collate(self, drawn: Sequence[tuple[str, int]]) -> tuple[Tensor, Tensor]:
        """Return token ids [B, L] and targets [B, D]."""
        rows = [index for _, index in drawn]
        return self.tokenize([text for text, _ in drawn]), torch.from_numpy(self.targets[rows])

    def encode(self, tokens: Tensor) -> Tensor:
        """Map token ids [B, L] to unit embeddings [B, D]."""
        with _fast_attention(self.device):
            return functional.normalize(self.tower(tokens).float(), dim=-1)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss: 1 - cosine, and the divergence between the similarities within the batch."""
        tokens, target = batch
        student = self.encode(tokens)
        cosine = (student * target).sum(dim=-1).mean()
        divergence = relation_loss(student, target, self.recipe.temperature)
        loss = 1 - cosine + self.recipe.relation_weight * divergence
        self.log("train/loss", loss, prog_bar=True, batch_size=len(tokens))
        self.log("train/cosine", cosine, prog_bar=True, batch_size=len(tokens))
        self.log("train/divergence", divergence, batch_size=len(tokens))
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the agreement with the teachers."""
        for group, measured in self.measured.items():
            for name, value in self.agreement(measured).items():
                self.log(f"{group}/{name}", value, prog_bar=name == "agreement", batch_size=1, rank_zero_only=True)

    @torch.no_grad()
    def agreement(self, measured: Measured) -> dict[str, float]:
        """Measure texts that were never drawn against the teachers.

        Returns:
            "cosine" with the target, and "agreement": the share of texts whose nearest taught name is the teachers'.
        """
        self.tower.eval()
        parts = measured.tokens.split(_MEASURED_BATCH)
        with torch.autocast(self.device.type, enabled=False):
            student = torch.cat([self.encode(part.to(self.device)) for part in parts])
            targets, names = measured.targets.to(self.device), measured.names.to(self.device)
            nearest = [(features @ names.T).argmax(dim=1) for features in (student, targets)]
        self.tower.train()
        return {
            "cosine": float((student * targets).sum(dim=-1).mean()),
            "agreement": float((nearest[0] == nearest[1]).float().mean()),
        }

    def configure_optimizers(self) -> dict[str, object]:
        """Return AdamW and the per-step schedule: warm-up, then cosine to a hundredth."""
        parameters = list(self.tower.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.lr, betas=(0.9, 0.98), eps=1e-6, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        steps = self.recipe.steps
        warmup = int(_WARMUP * steps)
        if step < warmup:
            return (step + 1) / warmup
        falling = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
        return _LAST_RATE + (1 - _LAST_RATE) * falling


@torch.no_grad()
def begin_with_pieces(tower: TextTransformer, ids: Sequence[int], vectors: np.ndarray) -> None:
    """Begin with the mean of what the teachers say of each piece alone; what its use in a text adds is left to learn.

    The first layer's attention hands the pieces on as they are, nearly in equal parts, and the projection keeps them.

    Args:
        tower: untrained; its embeddings keep their scale.
        ids: [n] of the pieces.
        vectors: [n, D] of unit length, the most important numbers first.
    """
    parts: Any = tower  # its classes say less of their weights than is known here
    embedding = parts.token_embedding.weight
    own = torch.from_numpy(vectors)[:, : embedding.shape[1]]
    embedding[ids, : own.shape[1]] = own * (embedding.std() / own.std())
    attention, width = parts.transformer.resblocks[0].attn, embedding.shape[1]
    attention.in_proj_weight[: 2 * width] *= _NEARLY_EQUAL
    nn.init.eye_(attention.in_proj_weight[2 * width :])
    nn.init.eye_(attention.out_proj.weight)
    nn.init.eye_(parts.text_projection)


@torch.no_grad()
def place_other_pieces(
    tower: TextTransformer, shown: Mapping[int, np.ndarray], others: Mapping[int, np.ndarray]
) -> None:
    """Give pieces that training never showed the embeddings that ridge regression predicts from those it did show.

    Args:
        tower: trained.
        shown: [E] by piece, what the teachers' own tables have for it.
        others: likewise of pieces whose embeddings are replaced.
    """
    if not others:
        return
    parts: Any = tower
    table = parts.token_embedding.weight
    known, asked = (torch.from_numpy(np.stack(list(own.values()))).to(table.device) for own in (shown, others))
    mean, target = known.mean(dim=0), table[list(shown)]
    centred = known - mean
    gram = centred.T @ centred
    penalty = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
    product = torch.linalg.solve(gram + penalty, centred.T @ (target - target.mean(dim=0)))
    table[list(others)] = target.mean(dim=0) + (asked - mean) @ product


def _fast_attention(device: torch.device) -> AbstractContextManager[object]:
    """Choose how attention is computed.

    Of texts as short as these, PyTorch's fused kernel for CPUs takes 1.0 s to differentiate 512, plain products 0.2 s.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def relation_loss(student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return the mean divergence between what the teachers and the student find alike within a batch.

    Args:
        student: [B, D] of unit length.
        target: [B, D] likewise.
        temperature: of the softmax over the cosines with the other texts; a text's cosine with itself says nothing.
    """
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    own, taught = (
        functional.log_softmax((f @ f.T)[others].view(len(f), -1).float() / temperature, dim=1)
        for f in (student, target)
    )
    return functional.kl_div(own, taught, reduction="batchmean", log_target=True)


def build_tower(text_cfg: dict[str, Any], embed_dim: int) -> TextTransformer:
    """Build the untrained tower that OpenCLIP builds for this `text_cfg`."""
    options = {name: value for name, value in text_cfg.items() if not name.startswith("hf_")}
    return TextTransformer(output_dim=embed_dim, **options)
