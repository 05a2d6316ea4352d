"""Runs the sampler that export planned, with any function that predicts clean pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from clipsr_serving.errors import ArtifactError
from clipsr_serving.restoration._noise import pixel_noise
from clipsr_serving.restoration._tiles import Tile, Tiling, map_tiles

Picture = NDArray[np.float32]
Predict = Callable[[Picture, Picture, float], Picture]
"""(state, lq, time) of a tile to its clean picture; all [3, h, w], sides multiples of `multiple_px`."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class Step(_Part):
    """The network is evaluated at `time`; then the state becomes the sum of pictures with the other weights.

    Attributes:
        time: of the SDE.
        state: weight of the state.
        clean: of the prediction.
        previous: of the prediction of the step before.
        lq: of the damaged picture.
    """

    time: float
    state: float
    clean: float
    previous: float
    lq: float


class SamplerSettings(_Part):
    """What export wrote of a sampler.

    Attributes:
        noise_level: deviation of the noise in the first state, for pictures in [0, 1].
        multiple_px: sides of tiles are padded to multiples of this.
        tile_px: longest side of a tile.
        overlap_px: overlap of neighbouring tiles, at least.
        plans: the steps of runs of 1, 2, … steps.
    """

    noise_level: Annotated[float, Field(gt=0)]
    multiple_px: PositiveInt
    tile_px: PositiveInt
    overlap_px: PositiveInt
    plans: Annotated[tuple[Annotated[tuple[Step, ...], Field(min_length=1)], ...], Field(min_length=1)]

    @property
    def tiling(self) -> Tiling:
        """How large pictures are cut."""
        return Tiling(tile_px=self.tile_px, overlap_px=self.overlap_px, multiple_px=self.multiple_px)


def read_sampler(path: Path) -> SamplerSettings:
    """Read the file that export wrote.

    Raises:
        ArtifactError: it is missing, or not such a file.
    """
    try:
        settings = SamplerSettings.model_validate_json(path.read_bytes())
        assert settings.tiling, "checked on construction"
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error}); export the restorer again") from error
    except (ValidationError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}; export the restorer again") from error
    return settings


def restore(lq: NDArray[np.uint8], predict: Predict, settings: SamplerSettings, *, steps: int, seed: int) -> Picture:
    """Restore a picture.

    Tiles are blended at every step, so that one state covers the whole picture.

    Args:
        lq: [3, H, W] RGB, damaged, of any size from 1x1.
        predict: evaluates the network on a tile.
        settings: of the sampler.
        steps: network evaluations of every pixel, 1 to the number of plans.
        seed: of the noise, 0 to 2^64 - 1; the same seed and picture give the same result.

    Returns:
        [3, H, W] in [0, 1].
    """
    size_hw = (lq.shape[1], lq.shape[2])
    damaged = lq.astype(np.float32) / np.float32(255)
    state = damaged + np.float32(settings.noise_level) * pixel_noise(seed, 0, size_hw)
    previous = state
    for step in settings.plans[steps - 1]:
        clean = _predict(state, damaged, step.time, predict, settings)
        weights = (step.state, step.clean, step.previous, step.lq)
        pictures = zip(weights, (state, clean, previous, damaged), strict=True)
        state = sum((np.float32(weight) * picture for weight, picture in pictures if weight), np.zeros_like(damaged))
        previous = clean
    return np.clip(state, 0, 1)


def _predict(state: Picture, lq: Picture, time: float, predict: Predict, settings: SamplerSettings) -> Picture:
    def predict_tile(tile: Tile) -> Picture:
        rows, columns = tile.bottom - tile.top, tile.right - tile.left
        padded_state, padded_lq = (_pad(tile.cut(picture), settings.multiple_px) for picture in (state, lq))
        return predict(padded_state, padded_lq, time)[:, :rows, :columns]

    return map_tiles(predict_tile, (lq.shape[1], lq.shape[2]), settings.tiling)


def _pad(picture: Picture, multiple: int) -> Picture:
    """Extend both axes at their ends to a multiple, by reflection; by the edge where that is too short."""
    for axis in (2, 1):
        if missing := -picture.shape[axis] % multiple:
            widths = [(0, missing if axis == own else 0) for own in range(3)]
            picture = np.pad(picture, widths, mode="reflect" if missing < picture.shape[axis] else "edge")
    return np.ascontiguousarray(picture)
