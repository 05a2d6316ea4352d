"""Pictures larger than a network can process at once: overlapping tiles, blended where they meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Tile(NamedTuple):
    """A region of a picture, in pixels: [top, bottom) by [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the region of [..., H, W]."""
        return picture[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a picture is cut.

    Attributes:
        tile_px: longest side of a tile.
        overlap_px: overlap of neighbours, at least.
        multiple_px: tiles begin at multiples of this, so that the network's grids are those of the whole picture.
    """

    tile_px: int = 256
    overlap_px: int = 32
    multiple_px: int = 16

    def __post_init__(self) -> None:
        if self.multiple_px < 1 or self.tile_px % self.multiple_px or self.overlap_px % self.multiple_px:
            raise ValueError(
                f"tiles of {self.tile_px} px that share {self.overlap_px} px must be multiples of {self.multiple_px} px"
            )
        if not 0 < self.overlap_px < self.tile_px:
            raise ValueError(f"tiles of {self.tile_px} px can't share {self.overlap_px} px")

    @property
    def margin_px(self) -> int:
        """Width at inner edges that has no weight: context is least complete there."""
        return self.overlap_px // 4

    def tiles(self, size_hw: tuple[int, int]) -> list[Tile]:
        """Return the tiles of a picture, row by row; one for a picture that needs no cutting."""
        rows, columns = (self._spans(side) for side in size_hw)
        return [Tile(*row, *column) for row, column in product(rows, columns)]

    def _spans(self, side: int) -> list[tuple[int, int]]:
        # The last begins at a multiple, so it may be a little shorter; its padding is then that of the whole picture.
        last = max(0, -(-(side - self.tile_px) // self.multiple_px) * self.multiple_px)
        stride = self.tile_px - self.overlap_px
        starts = [*range(0, last, stride), last]
        return [(start, min(start + self.tile_px, side)) for start in starts]

    def weights(self, tile: Tile, size_hw: tuple[int, int]) -> np.ndarray:
        """Return the weight of each pixel of a tile, float32 [h, w]: 1 in the middle, down to 0 at inner edges."""
        one, two = self._ramp(tile.top, tile.bottom, size_hw[0]), self._ramp(tile.left, tile.right, size_hw[1])
        return (one[:, None] * two).astype(np.float32)

    def _ramp(self, start: int, end: int, side: int) -> np.ndarray:
        places = np.arange(end - start) + 0.5
        length = self.overlap_px - 2 * self.margin_px
        before = np.clip((places - self.margin_px) / length, 0, 1) if start > 0 else 1.0
        after = np.clip((end - start - places - self.margin_px) / length, 0, 1) if end < side else 1.0
        return np.minimum(np.broadcast_to(before, places.shape), after)


def map_tiles(
    function: Callable[[Tile], NDArray[np.float32]], size_hw: tuple[int, int], tiling: Tiling
) -> NDArray[np.float32]:
    """Blend what a function returns for each tile.

    Args:
        function: maps a tile to [3, h, w].
        size_hw: of the picture.
        tiling: how it is cut.

    Returns:
        [3, H, W]. Equal to what the function would return for the whole picture wherever it depends on no more than
        `margin_px` around a pixel. Networks with attention depend on all that they see, so there tiles differ from the
        whole, smoothly across the overlap.
    """
    tiles = tiling.tiles(size_hw)
    if len(tiles) == 1:
        return function(tiles[0])
    total = np.zeros((3, *size_hw), dtype=np.float32)
    weight_sum = np.zeros(size_hw, dtype=np.float32)
    for tile in tiles:
        weights = tiling.weights(tile, size_hw)
        tile.cut(total)[...] += function(tile) * weights
        tile.cut(weight_sum)[...] += weights
    return total / weight_sum
