"""What the encoder sees of a thumbnail, as the service renders and rounds it, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipsr_training.adapt._photos import Canvases
from clipsr_training.liif import Upscaler

# Part of the gradient that passes a clamped pixel, so that one that is too bright can still get darker.
_LEAK = 0.1


def render_canvases(upscaler: Upscaler, canvases: Sequence[Canvases], size_px: int) -> Tensor:
    """Render the thumbnails of a batch on the encoder's grid.

    Args:
        upscaler: the model.
        canvases: all thumbnails of the batch.
        size_px: R.

    Returns:
        [B, 3, R, R] float32 in [0, 1], nominally, neither clamped nor rounded, in the order of the batch.
    """
    parts: list[Tensor] = []
    for own in canvases:
        feat = upscaler.features(own.pixels.contiguous(memory_format=torch.channels_last))
        parts.append(upscaler.render(feat, own.box, (size_px, size_px)).float())
    rows = torch.cat([own.rows for own in canvases])
    return torch.cat(parts)[rows.argsort()]


def quantize(sr: Tensor) -> Tensor:
    """Clamp and round to the 256 levels that the service hands on, in [0, 1].

    Rounding passes gradients as if it did nothing, clamping passes a tenth.
    """
    clamped = sr.clamp(0, 1)
    leaky = clamped + _LEAK * (sr - clamped)
    levels = (clamped * 255).round() / 255
    return leaky + (levels - leaky).detach()
