"""Where output pixels fall between latent codes, as small tables per axis.

With n source samples and N target samples over the region [start, start + length) of the source axis, target i has
the source coordinate u = start + (2i + 1) * length / (2N) - 1/2 (pixel centres at integers). Its neighbours are
floor(u) and floor(u) + 1, both clamped to the axis, and rel = 2 (u - index) is LIIF's relative coordinate. Computing
this per axis replaces the reference's GridSample, whose rounding differs between runtimes.

Source: Chen et al. 2021 (LIIF), equations 2-4, written in pixel units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Box = Float[Tensor, "batch 4"]
"""(top, left, height, width) of a region in source pixels."""


class Axis(NamedTuple):
    """Neighbours of every target sample on one axis; all fields are [B, N]."""

    low: Int[Tensor, "batch n"]
    high: Int[Tensor, "batch n"]
    rel_low: Float[Tensor, "batch n"]
    rel_high: Float[Tensor, "batch n"]
    weight_low: Float[Tensor, "batch n"]
    weight_high: Float[Tensor, "batch n"]


def full_box(batch_size: int, size_hw: tuple[int, int]) -> Box:
    """Return the box [B, 4] that covers a whole map of `size_hw` rows and columns."""
    return torch.tensor([[0.0, 0.0, float(size_hw[0]), float(size_hw[1])]]).expand(batch_size, 4)


def source_coordinates(start: Tensor, length: Tensor, n_target: int) -> Float[Tensor, "batch n"]:
    """Return u, the source coordinate of each target sample, in fp32.

    Args:
        start: [B] first source coordinate of the region, in pixels (the edge, not the centre, of its first pixel).
        length: [B] extent of the region in pixels.
        n_target: number of target samples N.
    """
    # fp32 whatever the autocast state: in fp16 or bf16 neighbouring pixels would share a coordinate.
    index = torch.arange(n_target, dtype=torch.float32, device=start.device)
    # Dividing last keeps what is exact in the product exact: a target half way between two sources stays there,
    # instead of falling to either side by round-off.
    return start.float()[:, None] + (2 * index + 1)[None] * length.float()[:, None] / (2 * n_target) - 0.5


def neighbours(u: Float[Tensor, "batch n"], n_source: int) -> Axis:
    """Return indices, relative coordinates and blend weights of the two neighbours of each coordinate.

    Where u falls exactly on a clamped border sample, both opposite lengths vanish and the reference divides noise by
    noise; the neighbours are the same latent code there, so equal weights are the well-defined answer.
    """
    floor = torch.floor(u)
    low = floor.clamp(0, n_source - 1)
    high = (floor + 1).clamp(0, n_source - 1)
    rel_low = 2 * (u - low)
    rel_high = 2 * (u - high)
    total = rel_low.abs() + rel_high.abs()
    is_defined = total > 0
    weight_low = torch.where(is_defined, rel_high.abs() / torch.where(is_defined, total, 1.0), 0.5)
    return Axis(low.long(), high.long(), rel_low, rel_high, weight_low, 1 - weight_low)


def nearest(u: Float[Tensor, "batch n"], n_source: int) -> tuple[Int[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Return the index of the nearest latent code (ties upwards, as floor(u + 1/2)) and the relative coordinate."""
    index = torch.floor(u + 0.5).clamp(0, n_source - 1)
    return index.long(), 2 * (u - index)


def interpolation_matrix(u: Float[Tensor, "batch n"], n_source: int) -> Float[Tensor, "batch n n_source"]:
    """Return the dense matrix of cubic interpolation (Keys 1981, a = -1/2) with the border sample repeated.

    Dense rather than gathered: n_source is at most a few hundred, and two small matrix products cost less than the
    sixteen gathers that they replace.
    """
    # All four taps at once: a graph of few operators costs its runtime less than the same sums one by one.
    taps = torch.floor(u)[..., None] + torch.tensor([-1.0, 0.0, 1.0, 2.0], device=u.device)
    samples = torch.arange(n_source, dtype=torch.float32, device=u.device)
    is_sample = (taps.clamp(0, n_source - 1)[..., None] == samples).to(torch.float32)
    return (is_sample * _cubic((u[..., None] - taps).abs())[..., None]).sum(dim=-2)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = -1/2 (Keys 1981, equation 15)."""
    squared = distance * distance
    inner = (1.5 * distance - 2.5) * squared + 1
    outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance <= 1, inner, torch.where(distance < 2, outer, 0.0))
