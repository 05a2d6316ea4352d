"""Picking latent codes by index, without GridSample."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def gather(latent: Float[Tensor, "b h w c"], index: Tensor) -> Tensor:
    """Pick latent codes by flat index (row * W + column), each sample from its own map: [B, ...] -> [B, ..., C]."""
    batch, height, width, channels = latent.shape
    offset = torch.arange(batch, device=index.device) * (height * width)
    flat = index + offset.reshape(-1, *[1] * (index.ndim - 1))
    picked = latent.reshape(-1, channels).index_select(0, flat.reshape(-1))
    return picked.reshape(*index.shape, channels)


def gather_rows(latent: Float[Tensor, "b h w c"], row: Int[Tensor, "b rows"]) -> Float[Tensor, "b rows w c"]:
    """Pick whole rows, each sample from its own map."""
    batch, height, width, channels = latent.shape
    whole_rows = latent.reshape(batch, height, 1, width * channels)
    return gather(whole_rows, row).reshape(batch, row.shape[1], width, channels)


def gather_columns(latent: Float[Tensor, "b rows w c"], column: Int[Tensor, "b n"]) -> Float[Tensor, "b rows n c"]:
    """Pick columns in every row, each sample from its own map."""
    _, rows, width, _ = latent.shape
    index = torch.arange(rows, device=column.device)[:, None] * width + column[:, None, :]
    return gather(latent, index)
