"""What happens to a picture one after another: scene, lens, sensor, reduction, file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from clipsr_training.degradation._files import FileFormat, save
from clipsr_training.degradation._kinds import KINDS, Kind, degrade
from clipsr_training.degradation._pixels import to_float, to_uint8
from clipsr_training.degradation._random import generator
from clipsr_training.degradation._reduction import Kernel, reduce, reduce_in_steps

# What a reduced picture has behind it; the other kinds happen before.
_AFTER_REDUCTION = frozenset({"jpeg-compressed", "uncompleted", "clean"})
# How programs make thumbnails: a guess, with all that are in wide use and none above a third.
_KERNEL_SHARES: dict[Kernel, float] = {
    "bicubic": 0.3,
    "area": 0.15,
    "bilinear": 0.1,
    "lanczos": 0.1,
    "aliased-bilinear": 0.15,
    "aliased-bicubic": 0.1,
    "nearest": 0.1,
}
_CLEAN_SHARE = 0.25
SMALLEST_PX = 8
# Sides are drawn from [8, 32] in half of the draws, from (32, 64] in three eighths, above in the rest: a canvas of
# 128 px takes as long as ten of 32, and such images lose least.
_SIDE_BOUNDS_PX = (32, 64)
# What adaptation meets; models that remove noise are shown more.
_NOISE = 6.0


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """How a small picture was made.

    Attributes:
        size_hw: rows and columns.
        kernel: of the last reduction.
        via: reductions before it, each a size and a kernel.
        blur_px: standard deviation of the blur that is left after the reduction, in its pixels.
        noise: standard deviation of the noise that is left, in levels of 255.
        files: how it was written, each file read again by the next.
    """

    size_hw: tuple[int, int]
    kernel: Kernel = "bicubic"
    via: tuple[tuple[tuple[int, int], Kernel], ...] = ()
    blur_px: float = 0.0
    noise: float = 0.0
    files: tuple[FileFormat, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Everything that happened to a picture.

    Attributes:
        damages: kinds with their strengths, in the order of `KINDS`, each at most once.
        thumbnail: how it was reduced and saved; None keeps its size.
    """

    damages: tuple[tuple[Kind, float], ...] = ()
    thumbnail: Thumbnail | None = None

    def __post_init__(self) -> None:
        places = [KINDS.index(kind) for kind, _ in self.damages]
        if places != sorted(set(places)):
            raise ValueError(f"damages happen in the order {', '.join(KINDS)}, each at most once")


def make_thumbnail(pixels: np.ndarray, thumbnail: Thumbnail, rng: np.random.Generator) -> np.ndarray:
    """Reduce and save an image; `rng` draws the noise."""
    small = reduce(reduce_in_steps(pixels, thumbnail.via), thumbnail.size_hw, thumbnail.kernel)
    if thumbnail.blur_px or thumbnail.noise:
        values = to_float(small)
        if thumbnail.blur_px:
            values = ndimage.gaussian_filter(values, (thumbnail.blur_px, thumbnail.blur_px, 0), mode="nearest")
        if thumbnail.noise:
            values = values + thumbnail.noise / 255 * rng.standard_normal(values.shape, dtype=np.float32)
        small = to_uint8(values)
    return save(small, thumbnail.files)


def apply_chain(pixels: np.ndarray, chain: Chain, seed: int, image: int) -> np.ndarray:
    """Damage, reduce and save an image.

    Args:
        pixels: RGB uint8 [H, W, 3].
        chain: what happens.
        seed: of the draws.
        image: its number; the same kind is drawn alike for the same number.
    """
    for kind, strength in chain.damages:
        if kind not in _AFTER_REDUCTION:
            pixels = degrade(pixels, kind, strength, generator(seed, image, kind))
    if chain.thumbnail is not None:
        pixels = make_thumbnail(pixels, chain.thumbnail, generator(seed, image, "thumbnail"))
    for kind, strength in chain.damages:
        if kind in _AFTER_REDUCTION:
            pixels = degrade(pixels, kind, strength, generator(seed, image, kind))
    return pixels


def draw_side(rng: np.random.Generator, largest: int) -> int:
    """Draw the side of a thumbnail in pixels, from 8 to `largest`; half of them have at most 32.

    Args:
        rng: of the draw.
        largest: side of the photo, or of the largest thumbnail; one below 8 is returned.
    """
    low, high = _SIDE_BOUNDS_PX
    which = rng.random()
    if largest < SMALLEST_PX:
        return largest
    if which < 0.5 or largest <= low:
        return round(SMALLEST_PX * (min(low, largest) / SMALLEST_PX) ** rng.random())
    if which < 0.875 or largest <= high:
        return int(rng.integers(low + 1, min(high, largest) + 1))
    return int(rng.integers(high + 1, largest + 1))


def draw_thumbnail(
    rng: np.random.Generator, size_hw: tuple[int, int], from_hw: tuple[int, int], *, max_noise: float = _NOISE
) -> Thumbnail:
    """Draw how a photo became a small picture: a quarter cleanly, the rest by all sorts.

    Args:
        rng: of the draw.
        size_hw: of the small picture.
        from_hw: of the photo.
        max_noise: largest standard deviation of the noise, in levels of 255.
    """
    kernels, shares = list(_KERNEL_SHARES), list(_KERNEL_SHARES.values())
    if rng.random() < _CLEAN_SHARE:
        return Thumbnail(size_hw=size_hw)
    kernel = kernels[rng.choice(len(kernels), p=shares)]
    via: tuple[tuple[tuple[int, int], Kernel], ...] = ()
    if rng.random() < 0.2:
        # Half the way, in logarithms, is where previews lie.
        rows, columns = (round((a * b) ** 0.5) for a, b in zip(size_hw, from_hw, strict=True))
        via = (((rows, columns), kernels[rng.choice(len(kernels), p=shares)]),)
    return Thumbnail(
        size_hw=size_hw,
        kernel=kernel,
        via=via,
        blur_px=rng.uniform(0.2, 1.2) if rng.random() < 0.3 else 0.0,
        noise=rng.uniform(1, max_noise) if rng.random() < 0.3 else 0.0,
        files=_draw_files(rng),
    )


def _draw_files(rng: np.random.Generator) -> tuple[FileFormat, ...]:
    form = rng.random()
    if form >= 0.7:
        return ()
    n_times = 2 if rng.random() < 0.2 else 1
    qualities = [int(quality) for quality in rng.integers(40, 96, n_times)]
    if form < 0.1:
        return tuple(FileFormat(codec="webp", quality=quality) for quality in qualities)
    subsampling = "4:4:4" if rng.random() < 0.2 else "4:2:0"
    return tuple(FileFormat(quality=quality, subsampling=subsampling) for quality in qualities)
