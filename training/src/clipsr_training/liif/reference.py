"""The published formulation of LIIF, evaluated literally: the yardstick for `LIIF.render`.

Every output pixel runs the whole MLP on the unfolded feature of each of its four latent codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from clipsr_training.liif._liif import LIIF

# The published constants: a shift that breaks ties upwards, a margin inside [-1, 1], a floor under areas.
_SHIFT_EPSILON = 1e-6
_CLAMP_EPSILON = 1e-6
_AREA_EPSILON = 1e-9


def pixel_centres(size_hw: tuple[int, int], device: torch.device) -> Float[Tensor, "h w 2"]:
    """Return (row, column) of the pixel centres in [-1, 1]."""
    axes = [-1 + (2 * torch.arange(n, device=device).float() + 1) / n for n in size_hw]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def sample_nearest(values: Float[Tensor, "b c h w"], coord: Float[Tensor, "b q 2"]) -> Float[Tensor, "b q c"]:
    """Fetch the nearest latent code of every coordinate, by GridSample as published."""
    grid = coord.flip(-1)[:, None]
    return functional.grid_sample(values, grid, mode="nearest", align_corners=False)[:, :, 0].transpose(1, 2)


Sampler = Callable[[Tensor, Tensor], Tensor]
"""Fetches values [B, C, H, W] at coord [1 or B, Q, 2] in [-1, 1], as [B, Q, C]."""


def upscale(model: LIIF, lr: Float[Tensor, "b 3 h w"], size_hw: tuple[int, int]) -> Float[Tensor, "b 3 rows columns"]:
    """Upscale whole images (uint8, or float in [0, 1]); RGB nominally in [0, 1], not clamped."""
    return render(model, model.features(lr), size_hw) * 0.5 + 0.5


def render(
    model: LIIF, feat: Float[Tensor, "b c h w"], size_hw: tuple[int, int], *, sample: Sampler = sample_nearest
) -> Float[Tensor, "b 3 rows columns"]:
    """Render the whole image.

    Args:
        model: its MLP and options.
        feat: encoder features of the low-resolution images.
        size_hw: output rows and columns.
        sample: fetches the nearest latent code.

    Returns:
        The network's output in [-1, 1] units, not clamped.

    Source: Chen et al. 2021, equations 2-6, and the official implementation's handling of borders.
    """
    batch, channels, height, width = feat.shape
    if model.feat_unfold:
        feat = functional.unfold(feat, 3, padding=1).view(batch, channels * 9, height, width)
    coord = pixel_centres(size_hw, feat.device).reshape(1, -1, 2).expand(batch, -1, -1)
    shifts = (-1, 1) if model.local_ensemble else (0,)
    predictions: list[Tensor] = []
    areas: list[Tensor] = []
    for shift_row in shifts:
        for shift_column in shifts:
            prediction, area = _predict(model, feat, coord, (shift_row, shift_column), size_hw, sample)
            predictions.append(prediction)
            areas.append(area + _AREA_EPSILON)
    # A latent code weighs as much as the rectangle opposite to it: the areas in reverse order.
    total = torch.stack(areas).sum(dim=0)
    raw = sum(p * (a / total)[..., None] for p, a in zip(predictions, reversed(areas), strict=True))
    assert isinstance(raw, Tensor)
    return raw.reshape(batch, *size_hw, 3).permute(0, 3, 1, 2)


def _predict(
    model: LIIF,
    feat: Tensor,
    coord: Tensor,
    shift: tuple[int, int],
    size_hw: tuple[int, int],
    sample: Sampler,
) -> tuple[Float[Tensor, "b q 3"], Float[Tensor, "b q"]]:
    """Return one latent code's prediction for every query, and the area it spans with the query."""
    batch, _, height, width = feat.shape
    size = torch.tensor([height, width], device=feat.device)
    offset = torch.tensor(shift, device=feat.device) / size
    epsilon = _SHIFT_EPSILON if any(shift) else 0.0
    nearby = (coord + offset + epsilon).clamp(-1 + _CLAMP_EPSILON, 1 - _CLAMP_EPSILON)
    latent = sample(feat, nearby)
    centres = pixel_centres((height, width), feat.device).permute(2, 0, 1).expand(batch, -1, -1, -1)
    rel = (coord - sample(centres, nearby)) * size
    inputs = [latent, rel]
    if model.cell_decode:
        cell = 2 / torch.tensor(size_hw, device=feat.device).float() * size
        inputs.append(cell.expand_as(rel))
    return model.imnet(torch.cat(inputs, dim=-1)), rel.prod(dim=-1).abs()
