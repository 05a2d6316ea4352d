"""Which route small images should take, by photos without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipsr_training.adapt._photos import CANVAS_SIZES_PX, Photos, check_photos, open_photos, reduce_photo
from clipsr_training.adapt._train import TEMPLATE
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.data import SetOptions
from clipsr_training.data._route_table import RouteRule
from clipsr_training.degradation import (
    SMALLEST_PX,
    FileFormat,
    draw_thumbnail,
    generator,
    make_thumbnail,
    write_pixels,
)
from clipsr_training.evaluation._backends.pixels import Route, encode
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.liif import Upscaler

# A rule for each range of sizes up to these; larger images skip super-resolution.
_BOUNDS_PX = (12, 24, 48, 96)
_BATCH = 32


class _Kind(NamedTuple):
    """Thumbnails that a rule is made for.

    Attributes:
        is_lossy: how they are saved.
        noise: standard deviations that are drawn, in levels of 255; None keeps what adaptation draws up to `max_noise`.
        max_noise: of the rule.
    """

    is_lossy: bool
    noise: tuple[float, float] | None = None
    max_noise: float | None = None


# A lossy file has lost most of the noise in its colours, by which it could be told from others.
_KINDS = (
    _Kind(is_lossy=False, max_noise=3),
    _Kind(is_lossy=False, noise=(3, 12), max_noise=12),
    _Kind(is_lossy=False, noise=(12, 30)),
    _Kind(is_lossy=True),
)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What the model is asked about undamaged photos, as in `AdaptRecipe`.

    Attributes:
        side_px: of the reduced photo, which it answers by super-resolution; None: the photo, by the native route.
        both_routes: the mean of both routes' answers to the reduced photo.
    """

    side_px: int | None = None
    both_routes: bool = False

    def __post_init__(self) -> None:
        if self.both_routes and self.side_px is None:
            raise ValueError("both routes of the teacher start from a reduced photo: say its side with --teacher-side")

    @property
    def routes(self) -> tuple[Route, ...]:
        """Those that answer."""
        if self.side_px is None:
            return ("native",)
        return ("upscaled", "native") if self.both_routes else ("upscaled",)

    def sees(self, square: np.ndarray) -> Image.Image:
        """Return what is answered instead of a photo, RGB uint8 [S, S, 3]."""
        photo = Image.fromarray(square)
        return photo if self.side_px is None else reduce_photo(photo, self.side_px)


def measure_routes(
    checkpoint: ClipCheckpoint,
    upscaler: Upscaler,
    photos: Sequence[str | Path],
    nouns: Sequence[str],
    *,
    teacher: Teacher | None = None,
    limit: int = 500,
    seed: int = 0,
    on_images: Callable[[int], None] = lambda _: None,
) -> tuple[RouteRule, ...]:
    """Choose a route for every range of sizes and kind of file.

    Args:
        checkpoint: the model.
        upscaler: what renders on the upscaled route.
        photos: see `open_photos`; their labels are not looked at.
        nouns: what the model is asked to tell apart.
        teacher: what an answer should be; None: that to the photo by the native route.
        limit: photos to measure on, drawn at random.
        seed: of all draws.
        on_images: called with the number of thumbnails done.

    Raises:
        FileNotFoundError: there are no photos.
        ValueError: photos can't be read.
    """
    teacher = teacher or Teacher()
    opened = check_photos(open_photos(photos, SetOptions(split="train")), checkpoint.image_size_px)
    rows = np.random.default_rng(seed).permutation(len(opened))[:limit]
    chosen = opened.select(np.sort(rows))
    backend = TorchBackend(checkpoint, upscaler, name="routes")
    labels = backend.embed_labels(nouns, [TEMPLATE])

    def answers(files: Sequence[bytes], *routes: Route) -> np.ndarray:
        parts: list[np.ndarray] = []
        for start in range(0, len(files), _BATCH):
            own = files[start : start + _BATCH]
            names = ["a thumbnail"] * len(own)
            parts.append(np.sum([backend.embed_images(own, names, route=route) for route in routes], axis=0) @ labels.T)
            on_images(len(own))
        return np.concatenate(parts).argmax(axis=1)

    truth = answers([encode(teacher.sees(chosen.square(i))) for i in range(len(chosen))], *teacher.routes)
    largest = min(checkpoint.image_size_px, CANVAS_SIZES_PX[-1])

    def rule(low: int, high: int, kind: _Kind) -> RouteRule:
        files = [_thumbnail(chosen, i, (low, high), seed, kind) for i in range(len(chosen))]
        upscaled, native = (float((answers(files, route) == truth).mean()) for route in ("upscaled", "native"))
        return RouteRule(
            max_side_px=high,
            is_lossy=kind.is_lossy,
            max_noise=kind.max_noise,
            route="upscaled" if upscaled >= native else "native",
            upscaled_agreement=upscaled,
            native_agreement=native,
            n_images=len(files),
        )

    return tuple(rule(low, high, kind) for low, high in _ranges(largest) for kind in _KINDS)


def _ranges(largest: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of sizes, both ends included, up to the encoder's own."""
    low = SMALLEST_PX
    for bound in (*_BOUNDS_PX, largest):
        high = min(bound, largest)
        if high >= low:
            yield low, high
            low = high + 1


def _thumbnail(photos: Photos, index: int, sizes: tuple[int, int], seed: int, kind: _Kind) -> bytes:
    """Return the file of a thumbnail: reduced and damaged as adaptation draws it, with noise and saved as asked."""
    square = photos.square(index)
    rng = generator(seed, index, f"route {sizes} {kind}")
    side = int(square.shape[0])
    size = min(int(rng.integers(sizes[0], sizes[1] + 1)), side)
    drawn = draw_thumbnail(rng, (size, size), (side, side))
    last = FileFormat(quality=int(rng.integers(60, 96)))
    noise = rng.uniform(*kind.noise) if kind.noise else min(drawn.noise, kind.max_noise or drawn.noise)
    before = replace(drawn, files=drawn.files[:-1] if kind.is_lossy else (), noise=noise)
    pixels = make_thumbnail(square, before, rng)
    return write_pixels(pixels, last) if kind.is_lossy else encode(Image.fromarray(pixels))
