"""Strokes: cubic Bézier curves with width and colour, drawn differentiably in plain PyTorch, and as SVG."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

_SEGMENTS = 16  # straight pieces of a curve; at 512 px they stay within a third of a pixel of it
_START_RADIUS = 0.1  # of a new curve's steps; source: Frans et al. 2021 (CLIPDraw)
WIDTHS = (1 / 224, 40 / 224)  # smallest and largest, as parts of the side


@dataclass(frozen=True, kw_only=True)
class Strokes:
    """N strokes on a white square of side 1, the last on top.

    Attributes:
        points: [N, 4, 2] (x, y) control points of the curves; x to the right, y down.
        widths: [N] of the lines, as parts of the side.
        colors: [N, 4] red, green, blue and opacity in [0, 1].
    """

    points: Tensor
    widths: Tensor
    colors: Tensor

    @classmethod
    def scattered(cls, n: int, generator: Generator) -> Strokes:
        """Return n strokes of random place, form and colour."""
        starts = torch.rand(n, 1, 2, generator=generator)
        steps = _START_RADIUS * (2 * torch.rand(n, 3, 2, generator=generator) - 1)
        points = torch.cat([starts, starts + steps.cumsum(1)], 1)
        return cls(points=points, widths=torch.full((n,), 5 / 224), colors=torch.rand(n, 4, generator=generator))

    def map(self, change: dict[str, Tensor]) -> Strokes:
        """Return strokes with other values under the given names."""
        return Strokes(**{**vars(self), **change})

    def clamped(self) -> Strokes:
        """Return the nearest strokes that can be drawn: widths and colours within their bounds."""
        return self.map({"widths": self.widths.clamp(*WIDTHS), "colors": self.colors.clamp(0, 1)})

    def render(self, side: int, background: Tensor | None = None) -> Tensor:
        """Draw the strokes with round ends and antialiased edges.

        Args:
            side: of the picture, in pixels.
            background: RGB [3, side, side] in [0, 1] below the strokes (None: white).

        Returns:
            RGB [3, side, side] in [0, 1], differentiable in points, widths and colours.
        """
        picture = torch.ones(3, side, side) if background is None else background
        centres = (torch.arange(side) + 0.5) / side
        for line, width, color in zip(self._polylines(), self.widths, self.colors, strict=True):
            # What is further away than the line is wide has neither ink nor gradient.
            box = _box(line.detach(), width.item() / 2 + 1 / side, side)
            if box is None:
                continue
            rows, columns = box
            pixels = torch.stack(torch.meshgrid(centres[columns], centres[rows], indexing="xy"), -1)
            distance = _distance(pixels.reshape(-1, 2), line).reshape(pixels.shape[:2])
            coverage = ((width / 2 - distance) * side + 0.5).clamp(0, 1) * color[3]
            below = picture[:, rows, columns]
            picture = picture.clone()
            picture[:, rows, columns] = torch.lerp(below, color[:3, None, None].expand_as(below), coverage)
        return picture

    def _polylines(self) -> Tensor:
        """Return points [N, segments + 1, 2] on the curves.

        Source: the Bernstein form of cubic Bézier curves.
        """
        t = torch.linspace(0, 1, _SEGMENTS + 1)
        basis = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], -1)
        return basis @ self.points

    def to_svg(self, side: int, background: str | None = None) -> str:
        """Return the drawing as SVG 1.1 of this width and height in pixels.

        Args:
            side: width and height.
            background: `data:` address of an image below the strokes (None: white).
        """
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{side}" viewBox="0 0 1 1">',
            '<rect width="1" height="1" fill="white"/>',
        ]
        if background is not None:
            lines.append(f'<image width="1" height="1" preserveAspectRatio="none" href="{background}"/>')
        for points, width, color in zip(self.points.tolist(), self.widths.tolist(), self.colors.tolist(), strict=True):
            start, *rest = [f"{x:.5f} {y:.5f}" for x, y in points]
            red, green, blue = (round(255 * value) for value in color[:3])
            lines.append(
                f'<path d="M {start} C {", ".join(rest)}" fill="none" stroke="rgb({red},{green},{blue})" '
                f'stroke-opacity="{color[3]:.4f}" stroke-width="{width:.5f}" stroke-linecap="round" '
                'stroke-linejoin="round"/>'
            )
        return "\n".join([*lines, "</svg>", ""])


def _box(line: Tensor, margin: float, side: int) -> tuple[slice, slice] | None:
    """Return rows and columns of the pixels around a line [M, 2]; None where all of it is outside of the picture."""
    first = ((line.amin(0) - margin) * side).floor().clamp(0, side).int().tolist()
    last = ((line.amax(0) + margin) * side).ceil().clamp(0, side).int().tolist()
    (left, top), (right, bottom) = first, last
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def _distance(pixels: Tensor, points: Tensor) -> Tensor:
    """Return the distance [P] of pixels [P, 2] to the line through points [M, 2]."""
    starts, directions = points[:-1], points[1:] - points[:-1]
    # [P, M - 1]: along each piece, where it is nearest.
    along = ((pixels[:, None] - starts) * directions).sum(-1) / (directions.square().sum(-1) + 1e-12)
    nearest = starts + along.clamp(0, 1)[..., None] * directions
    squared = (pixels[:, None] - nearest).square().sum(-1).amin(1)
    # The root's gradient at 0 is infinite.
    return (squared + 1e-10).sqrt()
