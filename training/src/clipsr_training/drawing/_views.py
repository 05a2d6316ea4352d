"""Random views of a picture: what looks like a thing from one angle only is not a drawing of it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

_DISTORTION = 0.5  # source: Frans et al. 2021 (CLIPDraw), RandomPerspective and RandomResizedCrop
_CROPS = (0.7, 0.9)  # share of the area


def draw_views(picture: Tensor, n: int, side: int, generator: Generator) -> Tensor:
    """Look at a picture in random perspective and cut.

    Args:
        picture: RGB [3, H, W] in [0, 1]; white continues beyond its edges.
        n: number of views.
        side: of a view, in pixels.
        generator: of the draw.

    Returns:
        RGB [n, 3, side, side], differentiable in the picture.
    """
    axis = (2 * torch.arange(side) + 1) / side - 1
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    grid = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    area = _CROPS[0] + (_CROPS[1] - _CROPS[0]) * torch.rand(n, 1, 1, generator=generator)
    shift = (2 * torch.rand(n, 1, 2, generator=generator) - 1) * (1 - area.sqrt())
    crops = torch.cat([grid[None, :, :2] * area.sqrt() + shift, torch.ones(n, len(grid), 1)], -1)
    projected = crops @ _perspectives(n, generator).transpose(1, 2)
    points = (projected[..., :2] / projected[..., 2:]).reshape(n, side, side, 2)
    ink = (1 - picture)[None].expand(n, -1, -1, -1)  # padding is zero, so white is
    return 1 - functional.grid_sample(ink, points, mode="bilinear", padding_mode="zeros", align_corners=False)


def _perspectives(n: int, generator: Generator) -> Tensor:
    """Return homographies [n, 3, 3] from a view's square [-1, 1]² to a picture's: corners move inwards in the view."""
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    moved = corners * (1 - _DISTORTION * torch.rand(n, 4, 2, generator=generator))
    # Source: eight linear equations of the four pairs of corners (Hartley and Zisserman 2004, section 4.1).
    x, y = moved.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    u, v = corners.expand(n, 4, 2).unbind(-1)
    rows = [
        torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
        torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
    ]
    solution = torch.linalg.solve(torch.cat(rows, 1), torch.cat([u, v], 1))
    return torch.cat([solution, torch.ones(n, 1)], 1).reshape(n, 3, 3)
