"""How a large output is rendered by a model with a small one: tiles of one continuous image, and what each must see.

All of it is per axis. With n source and N target pixels, target i stands for the source interval [i n/N, (i + 1) n/N).
A tile is R neighbouring targets, so its box is R n/N long wherever it lies, and the model's cell is the same in all
tiles: they are samples of one function, and no seam can appear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Added to each box's start, as a part of the window's side. A target that lies exactly half way between two latent
# codes belongs to the upper one; the few roundings of fp32 in the graph (each at most 2^-24 of a coordinate) could move
# it to the lower. Sixteen times one of them keeps it up, and moves the picture by far less than anyone could see.
_NUDGE = 2.0**-20


@dataclass(frozen=True, kw_only=True)
class AxisTile:
    """One tile on one axis.

    Attributes:
        target_start: its first target pixel.
        window_start: the first source pixel that is sent.
        box_start: where the tile begins, in pixels of the window.
    """

    target_start: int
    window_start: int
    box_start: float


@dataclass(frozen=True, kw_only=True)
class AxisPlan:
    """All tiles on one axis.

    Attributes:
        window_size: source pixels that are sent for a tile, the same for all of them.
        box_length: extent of every tile, in source pixels.
        tiles: in order; neighbours may overlap, and together they cover all targets.
    """

    window_size: int
    box_length: float
    tiles: tuple[AxisTile, ...]


def plan_axis(n_source: int, n_target: int, *, tile_px: int, halo_px: int | None) -> AxisPlan:
    """Divides one axis.

    The last tile is shifted inwards, so that it ends where the image does; only an output smaller than a tile hangs
    over. A window keeps `halo_px` around its tile, except where the image ends: there the window ends too, because the
    model's padding must meet the image's true border and no other.

    Args:
        n_source: pixels of the image.
        n_target: pixels of the output.
        tile_px: R, pixels that the model renders.
        halo_px: pixels beyond a box that the model sees; None sends the whole axis with every tile.
    """
    box_length = tile_px * n_source / n_target
    window_size = n_source
    if halo_px is not None:
        window_size = min(n_source, math.ceil(box_length) + 1 + 2 * halo_px)
    last = max(0, n_target - tile_px)
    starts = [*range(0, last, tile_px), last]
    return AxisPlan(
        window_size=window_size,
        box_length=box_length,
        tiles=tuple(_place(start, n_source, n_target, window_size, halo_px or 0) for start in starts),
    )


def _place(target_start: int, n_source: int, n_target: int, window_size: int, halo_px: int) -> AxisTile:
    whole, part = divmod(target_start * n_source, n_target)  # of integers: the fraction is exact until it is divided
    window_start = min(max(0, whole - halo_px), n_source - window_size)
    box_start = (whole - window_start) + part / n_target + window_size * _NUDGE
    return AxisTile(target_start=target_start, window_start=window_start, box_start=box_start)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One tile: its place on both axes."""

    row: AxisTile
    column: AxisTile


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """How one image becomes one output.

    Attributes:
        rows: the vertical axis.
        columns: the horizontal axis.
        tile_px: R.
    """

    rows: AxisPlan
    columns: AxisPlan
    tile_px: int

    def __iter__(self) -> Iterator[Tile]:
        """Yield all tiles, row by row."""
        for row in self.rows.tiles:
            for column in self.columns.tiles:
                yield Tile(row=row, column=column)

    def __len__(self) -> int:
        return len(self.rows.tiles) * len(self.columns.tiles)

    @property
    def window_pixels(self) -> int:
        """Rows times columns of what is sent for one tile."""
        return self.rows.window_size * self.columns.window_size

    def window(self, source: npt.NDArray[np.uint8], tile: Tile) -> npt.NDArray[np.uint8]:
        """Return the part [C, rows, columns] of an image [C, H, W] that is sent for a tile; a view."""
        top, left = tile.row.window_start, tile.column.window_start
        return source[:, top : top + self.rows.window_size, left : left + self.columns.window_size]

    def box(self, tile: Tile) -> tuple[float, float, float, float]:
        """Return (top, left, height, width) of a tile, in pixels of its window."""
        return tile.row.box_start, tile.column.box_start, self.rows.box_length, self.columns.box_length

    def paste(self, target: npt.NDArray[np.uint8], tile: Tile, pixels: npt.NDArray[np.uint8]) -> None:
        """Write the rendered pixels [C, R, R] of a tile into the output [C, rows, columns]; cuts what hangs over."""
        top, left = tile.row.target_start, tile.column.target_start
        place = target[:, top : top + self.tile_px, left : left + self.tile_px]
        place[...] = pixels[:, : place.shape[1], : place.shape[2]]


def plan_tiles(
    source_hw: tuple[int, int], target_hw: tuple[int, int], *, tile_px: int, halo_px: int | None
) -> TilePlan:
    """Divides an output of `target_hw` pixels; the other arguments are those of `plan_axis`."""
    rows, columns = (
        plan_axis(n_source, n_target, tile_px=tile_px, halo_px=halo_px)
        for n_source, n_target in zip(source_hw, target_hw, strict=True)
    )
    return TilePlan(rows=rows, columns=columns, tile_px=tile_px)
