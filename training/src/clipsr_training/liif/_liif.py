"""LIIF: the published decoder, rewritten exactly with less work."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clipsr_training.liif import _grid
from clipsr_training.liif._gather import gather, gather_columns, gather_rows
from clipsr_training.liif._grid import Axis, Box
from clipsr_training.liif._upscaler import Upscaler, out_dim


class MLP(nn.Module):
    """Linear layers with ReLU between them, with the official checkpoints' parameter names."""

    def __init__(self, in_dim: int, out_dim: int, hidden_list: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for hidden in hidden_list:
            layers += [nn.Linear(in_dim, hidden), nn.ReLU()]
            in_dim = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(in_dim, out_dim))

    def forward(self, x: Float[Tensor, "... in_dim"]) -> Float[Tensor, "... out_dim"]:
        """Apply the layers to the last axis."""
        return self.layers(x)


class LIIF(Upscaler):
    """LIIF with any of its three options on or off.

    Args:
        encoder: has `out_dim`, the number of its feature channels.
        hidden_list: widths of the MLP's hidden layers.
        local_ensemble: blend the predictions of the four nearest latent codes by area.
        feat_unfold: give the MLP the 3x3 neighbourhood of a latent code.
        cell_decode: give the MLP the size of the output pixel.

    Source: Chen et al. 2021, section 3; parameter names of the official implementation.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden_list: Sequence[int] = (256, 256, 256, 256),
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
    ) -> None:
        super().__init__()
        if not hidden_list:
            raise ValueError("hidden_list needs at least one hidden layer")
        self.encoder = encoder
        self.hidden_list = tuple(hidden_list)
        self.local_ensemble = local_ensemble
        self.feat_unfold = feat_unfold
        self.cell_decode = cell_decode
        self.n_latent = out_dim(encoder) * (9 if feat_unfold else 1)
        self.imnet = MLP(self.n_latent + 2 + (2 if cell_decode else 0), 3, self.hidden_list)

    def features(self, lr: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] (uint8, or float in [0, 1])."""
        return self.encoder(self.normalize(lr))

    def render(self, feat: Tensor, box: Box, size_hw: tuple[int, int]) -> Tensor:
        """Render a region; see `Upscaler.render`. The same function as the reference, with less work.

        The first layer runs once a latent code as a convolution, its coordinate term is a table for rows plus one for
        columns, and the cell joins the bias. What is left is bound by memory: rows are fetched and finished before
        columns, and the four predictions are blended as three channels after the output layer, not as hundreds before.
        """
        _, _, height, width = feat.shape
        rows, columns = size_hw
        cell = 2 * box[:, 2:].float() / torch.tensor([rows, columns], device=box.device)
        u_row = _grid.source_coordinates(box[:, 0], box[:, 2], rows)
        u_column = _grid.source_coordinates(box[:, 1], box[:, 3], columns)
        latent = self._first_layer(feat, cell)
        weight = self._coordinate_weight
        total: Tensor | None = None
        for row, rel_row, weight_row in self._corners(u_row, height):
            by_row = gather_rows(latent, row) + (rel_row[..., None] * weight[:, 0])[:, :, None]
            for column, rel_column, weight_column in self._corners(u_column, width):
                hidden = gather_columns(by_row, column) + (rel_column[..., None] * weight[:, 1])[:, None]
                # Two axes: runtimes fuse a product of matrices with its bias and ReLU, but not one of more axes.
                sr = self.imnet.layers[1:](hidden.flatten(0, 2)).reshape(*hidden.shape[:-1], 3)
                sr = sr * (weight_row[:, :, None] * weight_column[:, None, :])[..., None]
                total = sr if total is None else total + sr
        assert total is not None
        return total.permute(0, 3, 1, 2) * 0.5 + 0.5

    def query(self, feat: Tensor, u: Tensor, cell: Tensor) -> Tensor:
        """Evaluate at single points; see `Upscaler.query`."""
        _, _, height, width = feat.shape
        latent = self._first_layer(feat, cell)
        total: Tensor | None = None
        for row, rel_row, weight_row in self._corners(u[..., 0], height):
            for column, rel_column, weight_column in self._corners(u[..., 1], width):
                hidden = self._hidden(gather(latent, row * width + column), rel_row, rel_column)
                hidden = hidden * (weight_row * weight_column)[..., None]
                total = hidden if total is None else total + hidden
        return self._output(total)

    def _corners(self, u: Tensor, n_source: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return (index, relative coordinate, weight) of the latent codes that one axis blends."""
        if not self.local_ensemble:
            index, rel = _grid.nearest(u, n_source)
            return [(index, rel, torch.ones_like(rel))]
        axis: Axis = _grid.neighbours(u, n_source)
        return [(axis.low, axis.rel_low, axis.weight_low), (axis.high, axis.rel_high, axis.weight_high)]

    def _first_layer(self, feat: Tensor, cell: Tensor) -> Float[Tensor, "b h w hidden"]:
        """Return the first layer's output without its coordinate term, before the ReLU, once a latent code."""
        weight, bias = self._first.weight, self._first.bias
        channels = feat.shape[1]
        if self.feat_unfold:
            # torch's unfold orders a patch as (channel, row, column), the layout of a convolution's weight.
            kernel = weight[:, : self.n_latent].reshape(-1, channels, 3, 3)
            latent = functional.conv2d(feat, kernel, bias, padding=1)
        else:
            latent = functional.conv2d(feat, weight[:, : self.n_latent, None, None], bias)
        if self.cell_decode:
            latent = latent + (cell @ weight[:, self.n_latent + 2 :].T)[:, :, None, None]
        return latent.permute(0, 2, 3, 1)

    @property
    def _first(self) -> nn.Linear:
        first = self.imnet.layers[0]
        assert isinstance(first, nn.Linear)
        return first

    @property
    def _coordinate_weight(self) -> Float[Tensor, "hidden 2"]:
        return self._first.weight[:, self.n_latent : self.n_latent + 2]

    def _hidden(self, latent: Tensor, rel_row: Tensor, rel_column: Tensor) -> Tensor:
        """Finish the first layer with its coordinate term and apply the others, up to the last ReLU."""
        weight = self._coordinate_weight
        # Products, not a matrix product: autocast must not round coordinates to bf16.
        hidden = latent + rel_row[..., None] * weight[:, 0] + rel_column[..., None] * weight[:, 1]
        return self.imnet.layers[1:-1](hidden)

    def _output(self, hidden: Tensor | None) -> Tensor:
        return self.imnet.layers[-1](hidden) * 0.5 + 0.5
