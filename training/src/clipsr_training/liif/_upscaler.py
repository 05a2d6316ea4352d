"""The interface of continuous upscalers: an image becomes features, and features become pixels anywhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipsr_training.liif._grid import Box, full_box


class Upscaler(nn.Module, ABC):
    """A model that turns a low-resolution image into features, and features into pixels anywhere.

    Attributes:
        encoder: maps RGB in [-1, 1] to features of the same height and width.
        scale_max: largest trained scale.
        INNER_TENSORS: names of what `render_image` returns beside the picture.
    """

    encoder: nn.Module
    scale_max: float = 4.0
    INNER_TENSORS: ClassVar[tuple[str, ...]] = ("features",)

    def normalize(self, lr: Tensor) -> Float[Tensor, "b 3 h w"]:
        """Map uint8, or float in [0, 1], to float in [-1, 1].

        Raises:
            ValueError: `lr` is not [B, 3, H, W].
        """
        if lr.ndim != 4 or lr.shape[1] != 3:
            raise ValueError(f"expected an image batch [B, 3, H, W], got {list(lr.shape)}")
        # Scale and shift at once: (x / 255 - 0.5) / 0.5, and (x - 0.5) / 0.5.
        return lr.float() * (2 / 255) - 1 if lr.dtype == torch.uint8 else lr * 2 - 1

    @abstractmethod
    def features(self, lr: Tensor) -> Float[Tensor, "b c h w"]:
        """Encode images [B, 3, H, W] (uint8, or float in [0, 1]); `render` takes the result."""

    @abstractmethod
    def render(self, feat: Tensor, box: Box, size_hw: tuple[int, int]) -> Float[Tensor, "b 3 rows columns"]:
        """Render a region of the continuous image on a pixel grid.

        Args:
            feat: [B, C, H, W] what `features` returned.
            box: [B, 4] (top, left, height, width) of the region, in low-resolution pixels.
            size_hw: output rows and columns.

        Returns:
            RGB, nominally in [0, 1], not clamped.

        Source: Chen et al. 2021 (LIIF), equations 2-6.
        """

    def render_image(
        self, lr: Tensor, box: Box, size_hw: tuple[int, int]
    ) -> tuple[Float[Tensor, "b 3 rows columns"], tuple[Tensor, ...]]:
        """Render a region of images, as `render` of their `features`.

        Returns:
            RGB, nominally in [0, 1], not clamped; and what it was made from, in order: a runtime may compute each of
            these tensors in bf16 from the one before and from coordinates, but neither the coordinates nor the rest.
        """
        feat = self.features(lr)
        return self.render(feat, box, size_hw), (feat,)

    @abstractmethod
    def query(self, feat: Tensor, u: Tensor, cell: Tensor) -> Float[Tensor, "b q 3"]:
        """Evaluate the continuous image at single points, as training does.

        Args:
            feat: [B, C, H, W] what `features` returned.
            u: [B, Q, 2] row and column in low-resolution pixels, pixel centres at integers.
            cell: [B, 2] height and width of an output pixel, in half low-resolution pixels (LIIF's unit: 2 / scale).

        Returns:
            RGB, nominally in [0, 1], not clamped.
        """

    def upscale(self, lr: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Upscale whole images.

        Args:
            lr: uint8, or float in [0, 1], [3, H, W] or [B, 3, H, W].
            size_hw: output rows and columns.

        Returns:
            Float RGB [3, rows, columns] or [B, 3, rows, columns], nominally in [0, 1], not clamped.

        Raises:
            ValueError: a size is not positive.
        """
        if min(size_hw) < 1:
            raise ValueError(f"size_hw must be positive, got {size_hw}")
        batch = lr[None] if lr.ndim == 3 else lr
        feat = self.features(batch)
        box = full_box(batch.shape[0], (batch.shape[2], batch.shape[3])).to(feat.device)
        sr = self.render(feat, box, size_hw)
        return sr[0] if lr.ndim == 3 else sr


def to_uint8(sr: Tensor) -> Tensor:
    """Round RGB, nominally in [0, 1], to levels of 8 bits.

    Raises:
        ValueError: it is not finite, and so would be black.
    """
    if not sr.isfinite().all():
        raise ValueError("the upscaler renders pixels that are not finite: its weights are damaged, or diverged")
    return (sr.clamp(0, 1) * 255).round().to(torch.uint8)


def out_dim(encoder: nn.Module) -> int:
    """Return the number of an encoder's feature channels."""
    return cast("int", encoder.out_dim)
