"""Continuous upscalers: the LIIF decoder and a latent-modulated one, behind one interface."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from clipsr_training.liif import _grid, _reference
from clipsr_training.liif._grid import Axis, Box, full_box

Method = Literal["exact", "reference"]


class Upscaler(nn.Module, ABC):
    """A model that turns a low-resolution image into features, and features into pixels anywhere.

    Attributes:
        encoder: maps RGB in [-1, 1] to features of the same height and width.
        scale_max: largest trained scale.
    """

    encoder: nn.Module
    scale_max: float = 4.0

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

    def upscale(self, lr: Tensor, size_hw: tuple[int, int], method: Method = "exact") -> Tensor:
        """Upscale whole images.

        Args:
            lr: uint8, or float in [0, 1], [3, H, W] or [B, 3, H, W].
            size_hw: output rows and columns.
            method: "exact" is the fast rewrite; "reference" evaluates the published formulation literally.

        Returns:
            Float RGB [3, rows, columns] or [B, 3, rows, columns], nominally in [0, 1], not clamped.

        Raises:
            ValueError: a size is not positive, or the method is unknown or not offered by this model.
        """
        if min(size_hw) < 1:
            raise ValueError(f"size_hw must be positive, got {size_hw}")
        batch = lr[None] if lr.ndim == 3 else lr
        feat = self.features(batch)
        box = full_box(batch.shape[0], (batch.shape[2], batch.shape[3])).to(feat.device)
        sr = self._render_by(method, feat, box, size_hw)
        return sr[0] if lr.ndim == 3 else sr

    def _render_by(self, method: str, feat: Tensor, box: Tensor, size_hw: tuple[int, int]) -> Tensor:
        if method != "exact":
            raise ValueError(f"{type(self).__name__} renders with method 'exact' only, got {method!r}")
        return self.render(feat, box, size_hw)


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
        self.n_latent = _out_dim(encoder) * (9 if feat_unfold else 1)
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
            by_row = _gather_rows(latent, row) + (rel_row[..., None] * weight[:, 0])[:, :, None]
            for column, rel_column, weight_column in self._corners(u_column, width):
                hidden = _gather_columns(by_row, column) + (rel_column[..., None] * weight[:, 1])[:, None]
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
                hidden = self._hidden(_gather(latent, row * width + column), rel_row, rel_column)
                hidden = hidden * (weight_row * weight_column)[..., None]
                total = hidden if total is None else total + hidden
        return self._output(total)

    def _render_by(self, method: str, feat: Tensor, box: Tensor, size_hw: tuple[int, int]) -> Tensor:
        if method == "reference":
            return _reference.render(self, feat, size_hw) * 0.5 + 0.5
        return super()._render_by(method, feat, box, size_hw)

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


class ModulatedLIIF(Upscaler):
    """A continuous upscaler whose per-pixel network is 16 wide and modulated by the nearest latent code.

    A wide 3x3 convolution emits, once a low-resolution pixel, scale and shift for the two hidden layers of a narrow
    MLP that runs once an output pixel; its result is added to cubic interpolation of the input. Features are the
    modulations with the normalized input appended, so that nothing is kept between calls.

    Args:
        encoder: has `out_dim`, the number of its feature channels.
        latent_dim: width of the layer that emits the modulations.
        hidden_dim: width of the per-pixel network.
        scale_max: largest trained scale; a smaller output pixel is rendered with the cell of this scale.

    Source: He and Jin 2024 (arXiv 2404.16451), section 3, without its scale-aware modulation search, and with an
    interpolation residual as usual in single-scale super-resolution.
    """

    def __init__(
        self, encoder: nn.Module, *, latent_dim: int = 96, hidden_dim: int = 16, scale_max: float = 4.0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.hidden_dim = hidden_dim
        self.scale_max = scale_max
        self.modulation = nn.Sequential(
            nn.Conv2d(_out_dim(encoder), latent_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(latent_dim, 4 * hidden_dim, 1),
        )
        self.coordinate = nn.Linear(4, hidden_dim)
        self.hidden = nn.Linear(hidden_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, 3)

    def features(self, lr: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] to modulations and the normalized input, [B, 4 * hidden_dim + 3, H, W]."""
        x = self.normalize(lr)
        modulation = self.modulation(self.encoder(x))
        # fp32 whatever the autocast state: in bf16 the interpolated input alone would be off by half a level.
        return torch.cat((modulation.float(), x), dim=1)

    def render(self, feat: Tensor, box: Box, size_hw: tuple[int, int]) -> Tensor:
        """Render a region; see `Upscaler.render`."""
        _, _, height, width = feat.shape
        rows, columns = size_hw
        cell = 2 * box[:, 2:].float() / torch.tensor([rows, columns], device=box.device)
        u_row = _grid.source_coordinates(box[:, 0], box[:, 2], rows)
        u_column = _grid.source_coordinates(box[:, 1], box[:, 3], columns)
        modulation, x = feat[:, :-3], feat[:, -3:]
        detail = self._render_detail(
            modulation.permute(0, 2, 3, 1), _grid.nearest(u_row, height), _grid.nearest(u_column, width), cell
        )
        base = _grid.interpolation_matrix(u_row, height)[:, None] @ x.float()
        base = base @ _grid.interpolation_matrix(u_column, width)[:, None].transpose(2, 3)
        return (base + detail.permute(0, 3, 1, 2)) * 0.5 + 0.5

    def query(self, feat: Tensor, u: Tensor, cell: Tensor) -> Tensor:
        """Evaluate at single points; see `Upscaler.query`."""
        _, _, height, width = feat.shape
        row, rel_row = _grid.nearest(u[..., 0], height)
        column, rel_column = _grid.nearest(u[..., 1], width)
        modulation, x = feat[:, :-3], feat[:, -3:]
        gathered = _gather(modulation.permute(0, 2, 3, 1), row * width + column)
        detail = self._detail(gathered, rel_row, rel_column, cell[:, None])
        weight_row = _grid.interpolation_matrix(u[..., 0], height)
        weight_column = _grid.interpolation_matrix(u[..., 1], width)
        base = torch.einsum("bqh,bchw,bqw->bqc", weight_row, x.float(), weight_column)
        return (base + detail) * 0.5 + 0.5

    def _render_detail(
        self,
        modulation: Float[Tensor, "b h w c"],
        row: tuple[Tensor, Tensor],
        column: tuple[Tensor, Tensor],
        cell: Tensor,
    ) -> Float[Tensor, "b rows columns 3"]:
        """Compute `_detail` on a grid; rows and columns as `_grid.nearest` gives them.

        A pixel costs a few hundred products but some hundred bytes, so memory decides: all that does not depend on the
        column is done before columns are fetched, on a seventh of the pixels at scale 7.
        """
        weight = self.coordinate.weight
        cell = cell.clamp(min=2 / self.scale_max)
        # Products, not a matrix product, as in `_detail`.
        constant = cell[:, :1] * weight[:, 2] + cell[:, 1:] * weight[:, 3] + self.coordinate.bias
        scale_1, shift_1, scale_2, shift_2 = modulation.split(self.hidden_dim, dim=-1)
        scale_2 = 1 + scale_2
        shift_2 = shift_2 + scale_2 * self.hidden.bias
        scale_row = _gather_rows(scale_1, row[0])
        position_row = row[1][..., None] * weight[:, 0] + constant[:, None]
        shift_row = _gather_rows(shift_1, row[0]) + scale_row * position_row[:, :, None]
        position_column = (column[1][..., None] * weight[:, 1])[:, None]
        hidden = _gather_columns(scale_row, column[0]) * position_column + _gather_columns(shift_row, column[0])
        hidden = functional.linear(torch.relu(hidden), self.hidden.weight)
        index = row[0][:, :, None] * modulation.shape[2] + column[0][:, None, :]
        hidden = torch.relu(hidden * _gather(scale_2, index) + _gather(shift_2, index))
        return self.output(hidden)

    def _detail(self, modulation: Tensor, rel_row: Tensor, rel_column: Tensor, cell: Tensor) -> Tensor:
        """Run the per-pixel network; modulation is [..., 4 * hidden_dim], the result [..., 3] in units of [-1, 1]."""
        scale_1, shift_1, scale_2, shift_2 = modulation.split(self.hidden_dim, dim=-1)
        weight = self.coordinate.weight
        cell = cell.clamp(min=2 / self.scale_max)
        # Products, not a matrix product: autocast must not round coordinates to bf16.
        position = rel_row[..., None] * weight[:, 0] + rel_column[..., None] * weight[:, 1]
        position = position + cell[..., :1] * weight[:, 2] + cell[..., 1:] * weight[:, 3] + self.coordinate.bias
        hidden = torch.relu(position * scale_1 + shift_1)
        hidden = torch.relu(self.hidden(hidden) * (1 + scale_2) + shift_2)
        return self.output(hidden)


def _out_dim(encoder: nn.Module) -> int:
    """Return the number of an encoder's feature channels."""
    return cast("int", encoder.out_dim)


def _gather(latent: Float[Tensor, "b h w c"], index: Tensor) -> Tensor:
    """Pick latent codes by flat index (row * W + column), each sample from its own map: [B, ...] -> [B, ..., C]."""
    batch, height, width, channels = latent.shape
    offset = torch.arange(batch, device=index.device) * (height * width)
    flat = index + offset.reshape(-1, *[1] * (index.ndim - 1))
    picked = latent.reshape(-1, channels).index_select(0, flat.reshape(-1))
    return picked.reshape(*index.shape, channels)


def _gather_rows(latent: Float[Tensor, "b h w c"], row: Int[Tensor, "b rows"]) -> Float[Tensor, "b rows w c"]:
    """Pick whole rows, each sample from its own map."""
    batch, height, width, channels = latent.shape
    whole_rows = latent.reshape(batch, height, 1, width * channels)
    return _gather(whole_rows, row).reshape(batch, row.shape[1], width, channels)


def _gather_columns(latent: Float[Tensor, "b rows w c"], column: Int[Tensor, "b n"]) -> Float[Tensor, "b rows n c"]:
    """Pick columns in every row, each sample from its own map."""
    _, rows, width, _ = latent.shape
    index = torch.arange(rows, device=column.device)[:, None] * width + column[:, None, :]
    return _gather(latent, index)
