"""Knowledge distillation: what trained models say of the training images is part of the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from clipsr_training.clip._checkpoint import ClipCheckpoint, load_clip

# Softens both sides, so that what a teacher holds of the wrong texts counts too (Hinton et al. 2015, section 2).
_TEMPERATURE = 4.0
# Tokenizers of one vocabulary, one treatment of other scripts and one context length give these the same tokens.
_PROBE = ["a photo of a cat.", "一只猫", "x" * 400]


class Teachers:
    """Trained models whose mean opinion a student learns; none of their weights change.

    Each sees the very pixels and tokens that the student sees, as Beyer et al. 2022 (arXiv 2106.05237) advise. With
    `mirrors`, every second one sees the pixels mirrored, and so adds the view of another image.

    Args:
        checkpoints: the models; see `load_teachers`.
        mirrors: whether an image and its mirror image mean the same.
    """

    def __init__(self, checkpoints: Sequence[ClipCheckpoint], *, mirrors: bool) -> None:
        self.checkpoints = checkpoints
        self.mirrors = mirrors
        for checkpoint in checkpoints:
            checkpoint.model.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def to(self, device: torch.device) -> None:
        """Move all models to a device."""
        for checkpoint in self.checkpoints:
            checkpoint.model.to(device)

    def compile(self) -> None:
        """Run the image towers through torch.compile."""
        for checkpoint in self.checkpoints:
            checkpoint.model.visual.compile()  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]

    @torch.no_grad()
    def encode_texts(self, tokens: Tensor) -> list[Tensor]:
        """Map tokens [n, L] to unit embeddings [n, D] of each teacher."""
        return [functional.normalize(c.encode_text(tokens).float(), dim=-1) for c in self.checkpoints]

    @torch.no_grad()
    def probabilities(self, pixels: Tensor, texts: Sequence[Tensor]) -> Tensor:
        """Return softened probabilities [B, n] of the texts for every image, the mean of all teachers.

        Args:
            pixels: uint8 RGB [B, 3, R, R].
            texts: unit embeddings [n, D] of each teacher.
        """
        opinions: list[Tensor] = []
        for i, (checkpoint, own_texts) in enumerate(zip(self.checkpoints, texts, strict=True)):
            statistics = (checkpoint.mean, checkpoint.std)
            mean, std = (torch.tensor(v, device=pixels.device).view(1, 3, 1, 1) * 255 for v in statistics)
            seen = pixels.flip(-1) if self.mirrors and i % 2 else pixels
            normalized = ((seen - mean) / std).contiguous(memory_format=torch.channels_last)
            images = functional.normalize(checkpoint.encode_image(normalized).float(), dim=-1)
            opinions.append(soften(checkpoint.logit_scale, images, own_texts))
        return torch.stack(opinions).mean(dim=0)


def soften(logit_scale: float | Tensor, images: Tensor, texts: Tensor) -> Tensor:
    """Return softened probabilities [B, n] of texts for images, both unit embeddings."""
    return _softened(logit_scale, images, texts).exp()


def _softened(logit_scale: float | Tensor, images: Tensor, texts: Tensor) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):
        return (logit_scale * (images.float() @ texts.float().T) / _TEMPERATURE).log_softmax(dim=1)


def distillation_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, target: Tensor) -> Tensor:
    """Return the divergence of a student's softened image-to-text probabilities from its teachers', times T².

    Args:
        images: the student's unit embeddings [B, D].
        texts: likewise [n, D].
        logit_scale: factor on the student's cosines.
        target: probabilities [B, n] of `Teachers.probabilities`.

    Source: Hinton et al. 2015, section 2.
    """
    predicted = _softened(logit_scale.float(), images, texts)
    return functional.kl_div(predicted, target, reduction="batchmean") * _TEMPERATURE**2


def load_teachers(folders: Sequence[str | Path], student: ClipCheckpoint, *, mirrors: bool) -> Teachers | None:
    """Load checkpoint folders as teachers of a student; None where there are none.

    Raises:
        FileNotFoundError: a folder is no checkpoint.
        ValueError: a teacher takes other images or reads other tokens than the student.
    """
    checkpoints = [load_clip(folder) for folder in folders]
    tokens = student.tokenizer(_PROBE)
    for folder, checkpoint in zip(folders, checkpoints, strict=True):
        if checkpoint.image_size_px != student.image_size_px:
            raise ValueError(
                f"teacher {folder} takes images of {checkpoint.image_size_px} px, the model {student.image_size_px}: "
                "choose a teacher of the same size"
            )
        if not torch.equal(checkpoint.tokenizer(_PROBE), tokens):
            raise ValueError(f"teacher {folder} reads other tokens than the model: choose one with the same tokenizer")
    return Teachers(checkpoints, mirrors=mirrors) if checkpoints else None
