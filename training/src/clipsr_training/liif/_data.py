"""Training patches for super-resolution: random scale, random crop, random query points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clipsr_training.data import IMAGE_ENDINGS, find_images, read_image
from clipsr_training.degradation import draw_thumbnail, make_thumbnail


class PatchBatch(NamedTuple):
    """A training batch, or one sample of it without the leading axis.

    Attributes:
        lr: [B, 3, P, P] uint8 low-resolution patches.
        u: [B, Q, 2] query row and column in low-resolution pixels, pixel centres at integers.
        cell: [B, 2] size of the output pixel in half low-resolution pixels.
        hr: [B, Q, 3] RGB in [0, 1] at the query points.
    """

    lr: Tensor
    u: Tensor
    cell: Tensor
    hr: Tensor


def read_images(folders: Sequence[str | Path], *, least_side_px: int = 1) -> list[np.ndarray]:
    """Decode every image below the folders once, as RGB uint8 [H, W, 3].

    Raises:
        FileNotFoundError: a folder is missing or holds no image.
        ValueError: a file with an image's ending can't be decoded, or is smaller than that.
    """
    images: list[np.ndarray] = []
    for folder in map(Path, folders):
        paths = find_images(folder)
        if not paths:
            raise FileNotFoundError(
                f"no images below {folder}; expected a folder of {', '.join(sorted(IMAGE_ENDINGS))}"
            )
        for path in paths:
            image = read_image(path)
            if (side := min(image.shape[:2])) < least_side_px:
                raise ValueError(f"{path} has a side of {side} px; patches need at least {least_side_px} px")
            images.append(image)
    return images


class PatchDataset(Dataset[PatchBatch]):
    """Sample i is a pure function of (seed, i), so that a resumed run sees what an uninterrupted one sees.

    Args:
        images: RGB uint8 [H, W, 3] each, no side below `patch_size`; those too small for a patch at a drawn scale are
            drawn at a smaller one.
        n_samples: length.
        first_index: index of the first sample, for a run that continues.
        patch_size: P, side of the low-resolution patch.
        sample_q: Q, query points a patch.
        scale_max: scales are drawn from U(1, scale_max).
        seed: of all random draws.
        max_noise: see `LiifRecipe`.

    Source: Chen et al. 2021, section 4.1 (patches of 48, Q = 48^2, scale from U(1, 4), flips and transposes).
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        *,
        n_samples: int,
        first_index: int = 0,
        patch_size: int = 48,
        sample_q: int = 2304,
        scale_max: float = 4.0,
        seed: int = 0,
        max_noise: float | None = None,
    ) -> None:
        self.images = images
        self.n_samples = n_samples
        self.first_index = first_index
        self.patch_size = patch_size
        self.sample_q = sample_q
        self.scale_max = scale_max
        self.seed = seed
        self.max_noise = max_noise

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.n_samples

    def __getitem__(self, index: int) -> PatchBatch:
        """Return one sample; see `PatchBatch`."""
        if not 0 <= index < self.n_samples:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.first_index + index))
        image = self.images[rng.integers(len(self.images))]
        # Drawing within what the image can hold keeps small images in the set.
        scale = rng.uniform(1.0, max(1.0, min(self.scale_max, min(image.shape[:2]) / self.patch_size)))
        side = round(self.patch_size * scale)
        top, left = (rng.integers(n - side + 1) for n in image.shape[:2])
        hr = _augment(image[top : top + side, left : left + side], rng)
        return self._query(self._reduce(hr, rng), hr, rng)

    def _reduce(self, hr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        size_hw = (self.patch_size, self.patch_size)
        if self.max_noise is None:
            return np.asarray(Image.fromarray(hr).resize(size_hw, Image.Resampling.BICUBIC))
        drawn = draw_thumbnail(rng, size_hw, (hr.shape[0], hr.shape[1]), max_noise=self.max_noise)
        return make_thumbnail(hr, drawn, rng)

    def _query(self, lr: np.ndarray, hr: np.ndarray, rng: np.random.Generator) -> PatchBatch:
        side = hr.shape[0]
        flat = rng.permutation(side * side)[: self.sample_q]
        row_column = np.stack((flat // side, flat % side), axis=-1)
        ratio = self.patch_size / side
        u = (row_column + 0.5) * ratio - 0.5
        return PatchBatch(
            lr=torch.from_numpy(lr.transpose(2, 0, 1).copy()),
            u=torch.from_numpy(u.astype(np.float32)),
            cell=torch.full((2,), 2 * ratio),
            hr=torch.from_numpy(hr.reshape(-1, 3)[flat].astype(np.float32) / 255),
        )


def _augment(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip along either axis and transpose, each with probability one half."""
    if rng.random() < 0.5:
        patch = patch[::-1]
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    if rng.random() < 0.5:
        patch = patch.transpose(1, 0, 2)
    return np.ascontiguousarray(patch)
