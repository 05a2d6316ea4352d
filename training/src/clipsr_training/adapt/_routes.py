"""Which route small images should take, by photos without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from clipsr_training.adapt._photos import CANVAS_SIZES_PX, SMALLEST_PX, Photos, check_photos, open_photos
from clipsr_training.adapt._train import TEMPLATE
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.data import SetOptions
from clipsr_training.degradation import (
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


@dataclass(frozen=True, kw_only=True)
class RouteRule:
    """The route of small images of one kind, and what it was chosen by.

    Attributes:
        max_side_px: applies up to this shorter side, above that of the rule before.
        is_lossy: applies to JPEG and WebP files; otherwise to all others.
        route: the one that answers more thumbnails as the native route answers their photos.
        upscaled_agreement: share of equal answers by super-resolution.
        native_agreement: share of equal answers by the native route.
        n_images: thumbnails that both answered.
    """

    max_side_px: int
    is_lossy: bool
    route: Literal["upscaled", "native"]
    upscaled_agreement: float
    native_agreement: float
    n_images: int


def measure_routes(
    checkpoint: ClipCheckpoint,
    upscaler: Upscaler,
    photos: str | Path,
    nouns: Sequence[str],
    *,
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
        limit: photos to measure on, drawn at random.
        seed: of all draws.
        on_images: called with the number of thumbnails done.

    Raises:
        FileNotFoundError: there are no photos.
        ValueError: photos can't be read.
    """
    opened = check_photos(open_photos([photos], SetOptions(split="train")), checkpoint.image_size_px)
    rows = np.random.default_rng(seed).permutation(len(opened))[:limit]
    chosen = opened.select(np.sort(rows))
    backend = TorchBackend(checkpoint, upscaler, name="routes")
    labels = backend.embed_labels(nouns, [TEMPLATE])

    def answers(files: Sequence[bytes], route: Route) -> np.ndarray:
        parts: list[np.ndarray] = []
        for start in range(0, len(files), _BATCH):
            own = files[start : start + _BATCH]
            parts.append(backend.embed_images(own, ["a thumbnail"] * len(own), route=route) @ labels.T)
            on_images(len(own))
        return np.concatenate(parts).argmax(axis=1)

    truth = answers([encode(Image.fromarray(chosen.square(i))) for i in range(len(chosen))], "native")
    largest = min(checkpoint.image_size_px, CANVAS_SIZES_PX[-1])
    rules: list[RouteRule] = []
    for low, high in _ranges(largest):
        for is_lossy in (False, True):
            files = [_thumbnail(chosen, i, (low, high), seed, is_lossy=is_lossy) for i in range(len(chosen))]
            agreement = {route: float((answers(files, route) == truth).mean()) for route in ("upscaled", "native")}
            rules.append(
                RouteRule(
                    max_side_px=high,
                    is_lossy=is_lossy,
                    route="upscaled" if agreement["upscaled"] >= agreement["native"] else "native",
                    upscaled_agreement=agreement["upscaled"],
                    native_agreement=agreement["native"],
                    n_images=len(files),
                )
            )
    return tuple(rules)


def _ranges(largest: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of sizes, both ends included, up to the encoder's own."""
    low = SMALLEST_PX
    for bound in (*_BOUNDS_PX, largest):
        high = min(bound, largest)
        if high >= low:
            yield low, high
            low = high + 1


def _thumbnail(photos: Photos, index: int, sizes: tuple[int, int], seed: int, *, is_lossy: bool) -> bytes:
    """Return the file of a thumbnail: reduced and damaged as adaptation draws it, saved as asked."""
    square = photos.square(index)
    rng = generator(seed, index, f"route {sizes} {is_lossy}")
    side = int(square.shape[0])
    size = min(int(rng.integers(sizes[0], sizes[1] + 1)), side)
    drawn = draw_thumbnail(rng, (size, size), (side, side))
    last = FileFormat(quality=int(rng.integers(60, 96)))
    before = replace(drawn, files=drawn.files[:-1] if is_lossy else ())
    pixels = make_thumbnail(square, before, rng)
    return write_pixels(pixels, last) if is_lossy else encode(Image.fromarray(pixels))
