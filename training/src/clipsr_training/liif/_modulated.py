"""The latent-modulated decoder: the fast one that ships."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from clipsr_training.liif import _grid
from clipsr_training.liif._gather import gather, gather_columns, gather_rows
from clipsr_training.liif._grid import Box
from clipsr_training.liif._upscaler import Upscaler, out_dim


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

    INNER_TENSORS = ("features", "detail")

    def __init__(
        self, encoder: nn.Module, *, latent_dim: int = 96, hidden_dim: int = 16, scale_max: float = 4.0
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.hidden_dim = hidden_dim
        self.scale_max = scale_max
        self.modulation = nn.Sequential(
            nn.Conv2d(out_dim(encoder), latent_dim, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(latent_dim, 4 * hidden_dim, 1),
        )
        self.coordinate = nn.Linear(4, hidden_dim)
        self.hidden = nn.Linear(hidden_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, 3)

    def features(self, lr: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] to modulations and the normalized input, [B, 4 * hidden_dim + 3, H, W]."""
        return torch.cat(self._encode(lr), dim=1)

    def render(self, feat: Tensor, box: Box, size_hw: tuple[int, int]) -> Tensor:
        """Render a region; see `Upscaler.render`."""
        detail = self._render_detail(feat[:, :-3].permute(0, 2, 3, 1), box, size_hw)
        return self._add_detail(feat[:, -3:], box, detail)

    def render_image(self, lr: Tensor, box: Box, size_hw: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Render a region of images; see `Upscaler.render_image`.

        The inner tensors are modulations [B, H, W, 4 * hidden_dim], in the layout that rows and columns are picked
        from, and what is added to the interpolated input, [B, rows, columns, 3].
        """
        modulation, x = self._encode(lr)
        latent = modulation.permute(0, 2, 3, 1)
        detail = self._render_detail(latent, box, size_hw)
        return self._add_detail(x, box, detail), (latent, detail)

    def query(self, feat: Tensor, u: Tensor, cell: Tensor) -> Tensor:
        """Evaluate at single points; see `Upscaler.query`."""
        _, _, height, width = feat.shape
        row, rel_row = _grid.nearest(u[..., 0], height)
        column, rel_column = _grid.nearest(u[..., 1], width)
        modulation, x = feat[:, :-3], feat[:, -3:]
        gathered = gather(modulation.permute(0, 2, 3, 1), row * width + column)
        detail = self._detail(gathered, rel_row, rel_column, cell[:, None])
        weight_row = _grid.interpolation_matrix(u[..., 0], height)
        weight_column = _grid.interpolation_matrix(u[..., 1], width)
        base = torch.einsum("bqh,bchw,bqw->bqc", weight_row, x.float(), weight_column)
        return (base + detail) * 0.5 + 0.5

    def _encode(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """Return modulations [B, 4 * hidden_dim, H, W] and the normalized input [B, 3, H, W]."""
        x = self.normalize(lr)
        # fp32 whatever the autocast state: in bf16 the interpolated input alone would be off by half a level.
        return self.modulation(self.encoder(x)).float(), x

    def _add_detail(self, x: Tensor, box: Box, detail: Float[Tensor, "b rows columns 3"]) -> Tensor:
        """Add to the interpolated input, and map [-1, 1] to [0, 1]."""
        _, rows, columns, _ = detail.shape
        _, _, height, width = x.shape
        by_row = _grid.interpolation_matrix(_grid.source_coordinates(box[:, 0], box[:, 2], rows), height)
        by_column = _grid.interpolation_matrix(_grid.source_coordinates(box[:, 1], box[:, 3], columns), width)
        base = by_row[:, None] @ x.float() @ by_column[:, None].transpose(2, 3)
        return (base + detail.permute(0, 3, 1, 2)) * 0.5 + 0.5

    def _render_detail(
        self, modulation: Float[Tensor, "b h w c"], box: Box, size_hw: tuple[int, int]
    ) -> Float[Tensor, "b rows columns 3"]:
        """Compute `_detail` on a grid.

        A pixel costs a few hundred products but some hundred bytes, so memory decides: all that does not depend on the
        column is done before columns are fetched, on a seventh of the pixels at scale 7.
        """
        _, height, width, _ = modulation.shape
        rows, columns = size_hw
        row = _grid.nearest(_grid.source_coordinates(box[:, 0], box[:, 2], rows), height)
        column = _grid.nearest(_grid.source_coordinates(box[:, 1], box[:, 3], columns), width)
        weight = self.coordinate.weight
        cell = 2 * box[:, 2:].float() / torch.tensor([rows, columns], device=box.device)
        cell = cell.clamp(min=2 / self.scale_max)
        # Products, not a matrix product, as in `_detail`.
        constant = cell[:, :1] * weight[:, 2] + cell[:, 1:] * weight[:, 3] + self.coordinate.bias
        scale_1, shift_1, scale_2, shift_2 = modulation.split(self.hidden_dim, dim=-1)
        scale_2 = 1 + scale_2
        shift_2 = shift_2 + scale_2 * self.hidden.bias
        scale_row = gather_rows(scale_1, row[0])
        position_row = row[1][..., None] * weight[:, 0] + constant[:, None]
        shift_row = gather_rows(shift_1, row[0]) + scale_row * position_row[:, :, None]
        position_column = (column[1][..., None] * weight[:, 1])[:, None]
        hidden = gather_columns(scale_row, column[0]) * position_column + gather_columns(shift_row, column[0])
        hidden = functional.linear(torch.relu(hidden), self.hidden.weight)
        index = row[0][:, :, None] * width + column[0][:, None, :]
        hidden = torch.relu(hidden * gather(scale_2, index) + gather(shift_2, index))
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
