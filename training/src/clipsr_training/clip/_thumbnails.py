"""Images for training beside the small, damaged pictures that programs make of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from clipsr_training.data import PairSource
from clipsr_training.degradation import draw_side, draw_thumbnail, generator, make_thumbnail


@dataclass(frozen=True, kw_only=True)
class ThumbnailSource(PairSource):
    """Each image of a source as it is, followed by thumbnails of it: N + 1 times as many images, with the same texts.

    A thumbnail is a function of (seed, image, its number), so that every epoch and every resumed run sees the same.

    Attributes:
        images: the source.
        n_thumbnails: N, of each image.
        seed: of the draws.
    """

    images: PairSource
    n_thumbnails: int
    seed: int

    @classmethod
    def of(cls, images: PairSource, n_thumbnails: int, seed: int) -> ThumbnailSource:
        """Return a source and N thumbnails of each of its images."""
        n = n_thumbnails + 1
        return cls(
            name=images.name,
            encoded=lambda i: images.encoded(i // n),
            where=lambda i: images.where(i // n),
            texts=[own for own in images.texts for _ in range(n)],
            phrases=images.phrases,
            has_classes=images.has_classes,
            images=images,
            n_thumbnails=n_thumbnails,
            seed=seed,
        )

    def image(self, index: int) -> Image.Image:
        """Return an image or a thumbnail of its centred square, as RGB; raise as `PairSource.image`."""
        row, number = divmod(index, self.n_thumbnails + 1)
        image = self.images.image(row)
        if not number:
            return image
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = np.asarray(image)[top : top + side, left : left + side]
        rng = generator(self.seed, row, f"thumbnail {number}")
        size = draw_side(rng, side)
        return Image.fromarray(make_thumbnail(square, draw_thumbnail(rng, (size, size), (side, side)), rng))

    def check(self) -> None:
        """See `PairSource.check`."""
        self.images.check()

    @cached_property
    def image_digest(self) -> str:
        """SHA-256 over the image files, and over how thumbnails are drawn."""
        return hashlib.sha256(f"{self.images.image_digest} {self.n_thumbnails} {self.seed}".encode()).hexdigest()

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Return the indices of images and all their thumbnails, [len(images) * (N + 1)], ascending."""
        n = self.n_thumbnails + 1
        return (images[:, None] * n + np.arange(n)).ravel()
