"""Upscaling of images of any size in bounded memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipsr_training.liif._upscaler import Upscaler

# Output pixels rendered at once. LIIF holds some kilobytes for each (256 channels, four latent codes): 0.2 GB.
_STRIP_PIXELS = 1 << 15
# Rows of features that a pixel can see beyond its own: two taps of cubic interpolation, or a neighbour's 3x3 unfold.
_HALO_PX = 3


def upscale_in_strips(
    model: Upscaler, lr: Tensor, size_hw: tuple[int, int], *, strip_pixels: int = _STRIP_PIXELS
) -> Tensor:
    """Upscale one image, rendering a few output rows at a time; the same function as `Upscaler.upscale`.

    The encoder still sees the whole image: its receptive field is too wide to cut without a trace.

    Args:
        model: any upscaler.
        lr: [3, H, W] uint8, or float in [0, 1].
        size_hw: output rows and columns.
        strip_pixels: output pixels rendered at once; at least one row is.

    Returns:
        Float RGB [3, rows, columns], nominally in [0, 1], not clamped.
    """
    feat = model.features(lr[None])
    n_rows = max(1, strip_pixels // size_hw[1])
    strips = [
        _render_rows(model, feat, first, min(n_rows, size_hw[0] - first), size_hw)
        for first in range(0, size_hw[0], n_rows)
    ]
    return torch.cat(strips, dim=1)


def _render_rows(model: Upscaler, feat: Tensor, first: int, n_rows: int, size_hw: tuple[int, int]) -> Tensor:
    """Render output rows [first, first + n_rows) from the feature rows that they can see."""
    height, width = feat.shape[2:]
    top, bottom = (row * height / size_hw[0] for row in (first, first + n_rows))
    low = max(0, math.floor(top) - _HALO_PX)
    high = min(height, math.ceil(bottom) + _HALO_PX)
    box = torch.tensor([[top - low, 0.0, bottom - top, float(width)]], device=feat.device)
    return model.render(feat[:, :, low:high], box, (n_rows, size_hw[1]))[0]
