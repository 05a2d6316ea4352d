"""Parts of the conditional U-Net, under the names that its published weights have."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_DIM = 32
_LINEAR_HEADS = 4
_GROUPS = 32
# The published code has 1e-3 for every other precision, which moves outputs by .02; the weights are of float32.
_CHANNEL_EPS = 1e-5


class ChannelNorm(nn.Module):
    """Normalizes every pixel over its channels, and scales each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to the same shape, at single precision or better."""
        x = x if x.dtype == torch.float64 else x.float()
        centred = x - x.mean(dim=1, keepdim=True)
        return centred * (centred.square().mean(dim=1, keepdim=True) + _CHANNEL_EPS).rsqrt() * self.g


class TimeWaves(nn.Module):
    """Sine and cosine of a time at frequencies from 1 down to 1 / 10,000."""

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        steps = torch.arange(half, dtype=torch.float32)
        self.register_buffer("frequencies", torch.exp(steps * (-math.log(10000) / (half - 1))), persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        """Map [B] to [B, dim]."""
        angles = time[:, None] * self.frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class _Convolution(nn.Module):
    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim_out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class ResBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added; the time scales and shifts the first one's output."""

    def __init__(self, dim_in: int, dim_out: int, time_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, 2 * dim_out))
        self.block1 = _Convolution(dim_in, dim_out)
        self.block2 = _Convolution(dim_out, dim_out)
        self.res_conv = nn.Conv2d(dim_in, dim_out, 1, bias=False) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map [B, dim_in, H, W] and [B, time_dim] to [B, dim_out, H, W]."""
        scale, shift = self.mlp(time)[:, :, None, None].chunk(2, dim=1)
        hidden = functional.silu(self.block1(x) * (scale + 1) + shift)
        return functional.silu(self.block2(hidden)) + self.res_conv(x)


class LinearAttention(nn.Module):
    """Attention that sums keys and values over all pixels first, at a cost linear in their number.

    Source: Shen et al. 2021 (Efficient Attention), with values divided by the number of pixels as the published code
    has it: the larger the picture, the more of the output is the bias.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = _LINEAR_HEADS * HEAD_DIM
        self.to_qkv = nn.Conv2d(dim, 3 * inner, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(inner, dim, 1), ChannelNorm(dim))

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Map [B, C, H, W] to the same shape; the context is not used."""
        del context
        batch, _, rows, columns = x.shape
        heads = self.to_qkv(x).reshape(batch, 3, _LINEAR_HEADS, HEAD_DIM, rows * columns)
        query, key, value = heads.unbind(1)
        query = query.softmax(dim=-2) * HEAD_DIM**-0.5
        summary = (value / (rows * columns)) @ key.softmax(dim=-1).transpose(-1, -2)
        return self.to_out((summary @ query).reshape(batch, -1, rows, columns))


class Attention(nn.Module):
    """Multi-head softmax attention."""

    def __init__(self, dim: int, context_dim: int) -> None:
        super().__init__()
        self.n_heads = dim // HEAD_DIM
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Attend from queries [B, N, C] to keys and values [B, M, D]; return [B, N, C]."""
        query, key, value = (
            part.unflatten(-1, (self.n_heads, HEAD_DIM)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        found = functional.scaled_dot_product_attention(query, key, value)
        return self.to_out(found.transpose(1, 2).flatten(-2))


class _GatedLinear(nn.Module):
    def __init__(self, dim: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        # The middle one is the dropout of the published layout, which never drops.
        self.net = nn.Sequential(_GatedLinear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the content context, and a gated feed-forward layer.

    Args:
        dim: C.
        context_dim: D of the content context, None for none.
        is_folded: cross-attention to the context, a single token, is a linear layer; see `fold_contexts`.
    """

    def __init__(self, dim: int, context_dim: int | None, *, is_folded: bool) -> None:
        super().__init__()
        self.norm1, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn1 = Attention(dim, dim)
        self.context = self.attn2 = None
        if context_dim is not None and is_folded:
            self.context = nn.Linear(context_dim, dim)
        elif context_dim is not None:
            self.norm2 = nn.LayerNorm(dim)
            self.attn2 = Attention(dim, context_dim)
        self.ff = _FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Map tokens [B, N, C] and a context [B, D] to [B, N, C]."""
        normalized = self.norm1(x)
        x = x + self.attn1(normalized, normalized)
        if self.context is not None and context is not None:
            x = x + self.context(context)[:, None]
        elif self.attn2 is not None and context is not None:
            x = x + self.attn2(self.norm2(x), context[:, None])
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over all pixels of a picture."""

    def __init__(self, dim: int, context_dim: int | None, *, is_folded: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, dim, eps=1e-6)
        self.proj_in = nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(dim, context_dim, is_folded=is_folded)])
        self.proj_out = nn.Conv2d(dim, dim, 1)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)  # pyright: ignore[reportArgumentType] (it has one)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Map [B, C, H, W] and a context [B, D] to [B, C, H, W]."""
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))


class _Normalized(nn.Module):
    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.fn(self.norm(x), context)


class Residual(nn.Module):
    """Adds attention over normalized pixels to its input."""

    def __init__(self, dim: int, attention: nn.Module) -> None:
        super().__init__()
        self.fn = _Normalized(dim, attention)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Map [B, C, H, W] and a context [B, D] to [B, C, H, W]."""
        return x + self.fn(x, context)
