"""The conditional U-Net of DA-CLIP's restoration (Luo et al. 2024), in the layout of its published weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipsr_training.restoration._layers import (
    HEAD_DIM,
    LinearAttention,
    ResBlock,
    Residual,
    SpatialTransformer,
    TimeWaves,
)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Sizes of a network; the defaults are those of the published one.

    Attributes:
        width: channels at the full size.
        multipliers: of the width, at each level; every level but the last halves both sides.
        context_dim: D of both contexts; None for a network without them.
        has_prompt: the degradation context changes the time embedding.
        has_bottom_transformer: self-attention at the lowest level as well as in the middle.
        is_halved: all levels work at half the size (`wild-ir`).
        is_folded: see `fold_contexts`.
    """

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    context_dim: int | None = 512
    has_prompt: bool = True
    has_bottom_transformer: bool = True
    is_halved: bool = False
    is_folded: bool = False

    def __post_init__(self) -> None:
        if self.width < 4 or not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"no network has a width of {self.width} and multipliers {self.multipliers}")
        if self.context_dim is not None and self.context_dim < 1:
            raise ValueError(f"context_dim must be at least 1, got {self.context_dim}")
        for dim in self.transformer_dims:
            if dim % HEAD_DIM:
                raise ValueError(f"transformers have heads of {HEAD_DIM} channels, {dim} can't be divided into them")

    @property
    def multiple_px(self) -> int:
        """What sides are padded to a multiple of."""
        return 2 ** len(self.multipliers)

    @property
    def transformer_dims(self) -> tuple[int, ...]:
        """Channels wherever a transformer stands."""
        before, last = self.dims[-1]
        return (before, last) if self.has_bottom_transformer else (last,)

    @property
    def dims(self) -> tuple[tuple[int, int], ...]:
        """Channels that enter and leave each level."""
        own = [self.width, *(self.width * m for m in self.multipliers)]
        return tuple(pairwise(own))


class ConditionalUNet(nn.Module):
    """Maps a state of the SDE, the damaged picture, the time and both contexts to a prediction.

    Its training defines what it predicts: the noise in the state (published weights), or the residual.

    Attention is global: linear attention sums over all pixels, transformers normalize and attend over all, so a pixel
    of the output depends on the whole picture that is given at once, and on its size.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, time_dim = config.width, 4 * config.width
        self.init_conv = nn.Conv2d(6, width, 7, padding=3, bias=False)
        if config.is_halved:
            self.downsample = nn.Conv2d(width, width, 4, stride=2, padding=1)
            self.upsample = _upsampling(width, width)
        self.time_mlp = nn.Sequential(
            TimeWaves(width), nn.Linear(width, time_dim), nn.GELU(), nn.Linear(time_dim, time_dim)
        )
        if config.has_prompt and config.context_dim is not None:
            self.prompt = nn.Parameter(torch.rand(1, time_dim))
            self.text_mlp = nn.Sequential(
                nn.Linear(config.context_dim, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
            )
            self.prompt_mlp = nn.Linear(time_dim, time_dim)
        levels = range(len(config.dims))
        self.downs = nn.ModuleList([self._level_down(i) for i in levels])
        self.ups = nn.ModuleList([self._level_up(i) for i in reversed(levels)])
        middle = config.dims[-1][1]
        self.mid_block1, self.mid_block2 = (ResBlock(middle, middle, time_dim) for _ in range(2))
        self.mid_attn = Residual(middle, self._transformer(middle))
        self.final_res_block = ResBlock(2 * width, width, time_dim)
        self.final_conv = nn.Conv2d(width, 3, 3, padding=1)

    def _transformer(self, dim: int) -> SpatialTransformer:
        return SpatialTransformer(dim, self.config.context_dim, is_folded=self.config.is_folded)

    def _attention(self, level: int, dim: int) -> Residual:
        is_bottom = level == len(self.config.dims) - 1 and self.config.has_bottom_transformer
        return Residual(dim, self._transformer(dim) if is_bottom else LinearAttention(dim))

    def _level_down(self, level: int) -> nn.ModuleList:
        dim, after = self.config.dims[level]
        time_dim, is_last = 4 * self.config.width, level == len(self.config.dims) - 1
        last = nn.Conv2d(dim, after, 3, padding=1, bias=False) if is_last else nn.Conv2d(dim, after, 4, 2, 1)
        blocks = [ResBlock(dim, dim, time_dim) for _ in range(2)]
        return nn.ModuleList([*blocks, self._attention(level, dim), last])

    def _level_up(self, level: int) -> nn.ModuleList:
        after, dim = self.config.dims[level]
        blocks = [ResBlock(after + dim, dim, 4 * self.config.width) for _ in range(2)]
        last = _upsampling(dim, after) if level else nn.Conv2d(dim, after, 3, padding=1, bias=False)
        return nn.ModuleList([*blocks, self._attention(level, dim), last])

    def forward(
        self, state: Tensor, lq: Tensor, time: Tensor, content: Tensor | None, degradation: Tensor | None
    ) -> Tensor:
        """Return the prediction for a state.

        Args:
            state: [B, 3, H, W] x_t.
            lq: [B, 3, H, W] the damaged picture μ, RGB in [0, 1].
            time: [B] or [1], 0 to T, fractions included.
            content: [B, D] or [1, D], not normalized; None for a network without contexts.
            degradation: likewise.

        Returns:
            [B, 3, H, W]. Sides of any length are padded by reflection to a multiple, and cut.
        """
        rows, columns = state.shape[2:]
        x = pad_to_multiple(torch.cat((state - lq, lq), dim=1), self.config.multiple_px)
        first = x = self.init_conv(x)
        if self.config.is_halved:
            x = self.downsample(x)
        embedding = self._embed(time, degradation)
        kept: list[Tensor] = []
        for block1, block2, attention, down in _levels(self.downs):
            x = block1(x, embedding)
            kept.append(x)
            x = attention(block2(x, embedding), content)
            kept.append(x)
            x = down(x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, embedding), content), embedding)
        for block1, block2, attention, up in _levels(self.ups):
            x = block1(torch.cat((x, kept.pop()), dim=1), embedding)
            x = block2(torch.cat((x, kept.pop()), dim=1), embedding)
            x = up(attention(x, content))
        if self.config.is_halved:
            x = self.upsample(x)
        x = self.final_res_block(torch.cat((x, first), dim=1), embedding)
        return self.final_conv(x)[..., :rows, :columns]

    def _embed(self, time: Tensor, degradation: Tensor | None) -> Tensor:
        embedding = self.time_mlp(time)
        if degradation is None or not self.config.has_prompt or self.config.context_dim is None:
            return embedding
        return embedding + self.prompt_mlp(self.text_mlp(degradation).softmax(dim=1) * self.prompt)


def _levels(levels: nn.ModuleList) -> Iterator[Sequence[nn.Module]]:
    for level in levels:
        assert isinstance(level, nn.ModuleList)
        yield list(level)


def _upsampling(dim: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(dim, after, 3, padding=1))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Extend the last two axes at their ends to a multiple, by reflection; by the edge where that is too short."""
    for axis, pad in ((3, lambda n: (0, n, 0, 0)), (2, lambda n: (0, 0, 0, n))):
        if missing := -x.shape[axis] % multiple:
            x = functional.pad(x, pad(missing), mode="reflect" if missing < x.shape[axis] else "replicate")
    return x


def fold_contexts(network: ConditionalUNet) -> ConditionalUNet:
    """Return an equal network with cross-attention to the content context folded into a linear layer.

    The context is a single token, so its attention weight is 1 at every pixel: the output is `to_out(to_v(context))`
    everywhere, and queries, keys and their normalization do not matter.
    """
    if network.config.context_dim is None or network.config.is_folded:
        return network
    folded = ConditionalUNet(replace(network.config, is_folded=True))
    state = network.state_dict()
    values = {name: value for name, value in state.items() if ".attn2." not in name and ".norm2." not in name}
    for name in state:
        if name.endswith(".attn2.to_v.weight"):
            block = name.removesuffix("attn2.to_v.weight")
            out = state[f"{block}attn2.to_out.0.weight"]
            values[f"{block}context.weight"] = (out.double() @ state[name].double()).to(out.dtype)
            values[f"{block}context.bias"] = state[f"{block}attn2.to_out.0.bias"]
    folded.load_state_dict(values)
    return folded.to(next(network.parameters()).device).train(network.training)
