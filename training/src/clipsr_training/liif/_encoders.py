"""Image encoders that keep the resolution: EDSR (Lim et al. 2017) and RDN (Zhang et al. 2018).

Parameter names are those of the official LIIF checkpoints, so that `load_state_dict` takes them unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

# RGB mean of DIV2K, as EDSR publishes it. The official LIIF encoder carries these layers but never runs them.
_DIV2K_RGB_MEAN = (0.4488, 0.4371, 0.4040)

# RDN's published (blocks D, convolutions per block C, growth G) by configuration name.
RDN_CONFIGURATIONS: Mapping[str, tuple[int, int, int]] = {"A": (20, 6, 32), "B": (16, 8, 64)}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a ReLU between them and an identity shortcut, without normalization."""

    def __init__(self, n_feats: int, *, res_scale: float = 1.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(n_feats, n_feats, 3, padding=1), nn.ReLU(), nn.Conv2d(n_feats, n_feats, 3, padding=1)
        )
        self.res_scale = res_scale

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return x plus the scaled residual."""
        return x + self.body(x) * self.res_scale


class EDSR(nn.Module):
    """EDSR without its upsampler.

    Args:
        n_resblocks: residual blocks.
        n_feats: channels of the features.
        res_scale: factor on each block's residual.

    Source: Lim et al. 2017, section 3; the baseline has 16 blocks of 64 channels.
    """

    def __init__(self, *, n_resblocks: int = 16, n_feats: int = 64, res_scale: float = 1.0) -> None:
        super().__init__()
        self.out_dim = n_feats
        self.sub_mean = _mean_shift(sign=-1)
        self.add_mean = _mean_shift(sign=1)
        self.head = nn.Sequential(nn.Conv2d(3, n_feats, 3, padding=1))
        blocks: list[nn.Module] = [ResidualBlock(n_feats, res_scale=res_scale) for _ in range(n_resblocks)]
        self.body = nn.Sequential(*blocks, nn.Conv2d(n_feats, n_feats, 3, padding=1))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Map RGB in [-1, 1] to features of the same height and width."""
        x = self.head(x)
        return x + self.body(x)


def _mean_shift(*, sign: int) -> nn.Conv2d:
    shift = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(3)[:, :, None, None])
        assert shift.bias is not None
        shift.bias.copy_(sign * torch.tensor(_DIV2K_RGB_MEAN))
    return shift.requires_grad_(False)


class _DenseConvolution(nn.Module):
    """One convolution of a dense block, its output appended to its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(in_channels, growth, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(x)), dim=1)


class _ResidualDenseBlock(nn.Module):
    """Densely connected convolutions, fused by a 1x1 convolution, with an identity shortcut."""

    def __init__(self, channels: int, growth: int, n_convolutions: int) -> None:
        super().__init__()
        steps = [_DenseConvolution(channels + i * growth, growth) for i in range(n_convolutions)]
        self.convs = nn.Sequential(*steps)
        self.LFF = nn.Conv2d(channels + n_convolutions * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.LFF(self.convs(x)) + x


class RDN(nn.Module):
    """Residual dense network without its upsampler.

    Args:
        configuration: (D, C, G): residual dense blocks, convolutions in each, growth of each convolution.
        n_feats: channels of the features (G0 in the paper).

    Source: Zhang et al. 2018, section 3.
    """

    def __init__(self, *, configuration: tuple[int, int, int] = RDN_CONFIGURATIONS["B"], n_feats: int = 64) -> None:
        super().__init__()
        n_blocks, n_convolutions, growth = configuration
        self.out_dim = n_feats
        self.SFENet1 = nn.Conv2d(3, n_feats, 3, padding=1)
        self.SFENet2 = nn.Conv2d(n_feats, n_feats, 3, padding=1)
        self.RDBs = nn.ModuleList(_ResidualDenseBlock(n_feats, growth, n_convolutions) for _ in range(n_blocks))
        self.GFF = nn.Sequential(nn.Conv2d(n_blocks * n_feats, n_feats, 1), nn.Conv2d(n_feats, n_feats, 3, padding=1))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Map RGB in [-1, 1] to features of the same height and width."""
        shallow = self.SFENet1(x)
        x = self.SFENet2(shallow)
        outputs: list[Tensor] = []
        for block in self.RDBs:
            x = block(x)
            outputs.append(x)
        return self.GFF(torch.cat(outputs, dim=1)) + shallow
