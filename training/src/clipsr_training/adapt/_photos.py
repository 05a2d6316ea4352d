"""Photos without labels, and the thumbnails that are drawn from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipsr_training._draws import NumberedDraws, PhotoOrder
from clipsr_training._identity import digest_files
from clipsr_training.clip._preprocess import Preprocess, planar
from clipsr_training.data import SetOptions, decode, find_images
from clipsr_training.data._image_set import check_files
from clipsr_training.data._images import read_size
from clipsr_training.data._open import open_images
from clipsr_training.degradation import (
    DEGRADATIONS,
    Chain,
    apply_chain,
    draw_side,
    draw_thumbnail,
    generator,
    make_thumbnail,
)

# Of the tensor contract (docs/tensor-contract.md): an image sits on the smallest canvas that holds it.
CANVAS_SIZES_PX = (32, 64, 128)
# Nothing smaller has anything left to reduce.
_SMALLEST_PHOTO_PX = 16


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Photos that stay on disk.

    Attributes:
        names: what to call each in messages.
        read: returns photo i as the bytes of its file; raises OSError if it can't.
    """

    names: Sequence[str]
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        """Return their number."""
        return len(self.names)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all files in order."""
        return digest_files(self.read, len(self))

    def square(self, index: int) -> np.ndarray:
        """Return the central square of a photo, RGB uint8 [S, S, 3].

        Raises:
            ValueError: it can't be read or decoded; the message names it.
        """
        try:
            content = self.read(index)
        except OSError as error:
            raise ValueError(f"{self.names[index]} can't be read: {error}") from error
        image = decode(content, self.names[index])
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return np.asarray(image.crop((left, top, left + side, top + side)))

    def select(self, rows: Sequence[int] | np.ndarray) -> Photos:
        """Return the photos at these rows, in that order."""
        names, read = self.names, self.read
        return Photos(names=[names[row] for row in rows], read=lambda i: read(int(rows[i])))


def open_photos(specs: Sequence[str | Path], options: SetOptions) -> Photos:
    """Open photos, wherever they lie: a folder with everything below it, or any source of `clipsr-train clip`.

    Labels and captions are not looked at.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: a source holds no images.
    """
    parts = [_open(str(spec), options) for spec in specs]
    starts = np.cumsum([0, *map(len, parts)])

    def read(i: int) -> bytes:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return parts[part].read(i - int(starts[part]))

    return Photos(names=[name for part in parts for name in part.names], read=read)


def _open(spec: str, options: SetOptions) -> Photos:
    folder = Path(spec)
    if folder.is_dir() and (paths := find_images(folder)):
        return Photos(names=[str(path) for path in paths], read=lambda i: paths[i].read_bytes())
    images = open_images(spec, options, or_captions=True)
    return Photos(names=[f"{spec}, {name}" for name in images.names], read=images.read)


def check_photos(photos: Photos, image_size_px: int) -> Photos:
    """Return the photos that can be reduced; see `find_usable`."""
    return photos.select(find_usable(photos, image_size_px))


def find_usable(photos: Photos, image_size_px: int) -> np.ndarray:
    """Decode every photo once; return the rows of those that can be reduced, and say what is smaller than the encoder.

    Raises:
        ValueError: photos can't be read.
    """
    check_files(photos.read, photos.names, "the photos")
    sides = np.array([min(read_size(photos.read(i), photos.names[i])) for i in range(len(photos))])
    used = np.flatnonzero(sides >= _SMALLEST_PHOTO_PX)
    if len(used) < len(photos):
        warnings.warn(
            f"{len(used):,} of {len(photos):,} photos are used: the others are smaller than {_SMALLEST_PHOTO_PX} px",
            stacklevel=2,
        )
    if n_small := int((sides[used] < image_size_px).sum()):
        warnings.warn(
            f"{n_small:,} of the {len(used):,} photos used are smaller than the encoder's {image_size_px} px: what it "
            "says of them, enlarged, is all there is to learn from them",
            stacklevel=2,
        )
    return used


def split_held_out(n: int, part: float, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on, and those kept off, both ascending; at least one is kept."""
    order = np.random.default_rng(seed).permutation(n)
    n_held_out = max(1, min(most, round(n * part)))
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


class Draw(NamedTuple):
    """A photo and a thumbnail of it.

    Attributes:
        photo: [3, R, R] uint8, the undamaged photo by the native route.
        thumbnail: [r, r, 3] uint8.
        reduced: [t, t, 3] uint8, the photo reduced to what the teacher sees; None where it sees the photo.
        resized: [3, R, R] uint8, the same by the native route; None where the teacher is not asked about it.
    """

    photo: np.ndarray
    thumbnail: np.ndarray
    reduced: np.ndarray | None
    resized: np.ndarray | None


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """How thumbnails are drawn.

    Attributes:
        preprocess: the encoder's native route.
        image_size_px: R.
        teacher_side_px: see `AdaptRecipe`.
        teacher_both_routes: likewise.
        max_noise: likewise.
        damaged_share: likewise.
        seed: of all draws.
    """

    preprocess: Preprocess
    image_size_px: int
    teacher_side_px: int | None
    teacher_both_routes: bool
    max_noise: float
    damaged_share: float
    seed: int

    @property
    def largest_px(self) -> int:
        """The largest thumbnail."""
        return min(self.image_size_px, CANVAS_SIZES_PX[-1])


def draw(square: np.ndarray, number: int, options: DrawOptions) -> Draw:
    """Draw a thumbnail of a photo, a function of the photo, the seed and the number of the draw.

    Args:
        square: RGB uint8 [S, S, 3].
        number: of the draw.
        options: how.
    """
    rng = generator(options.seed, number, "adapt")
    if rng.random() < 0.5:
        square = np.ascontiguousarray(square[:, ::-1])
    side = square.shape[0]
    size = min(draw_side(rng, options.largest_px), side)
    drawn = draw_thumbnail(rng, (size, size), (side, side), max_noise=options.max_noise)
    if options.damaged_share and rng.random() < options.damaged_share:
        kind = DEGRADATIONS[rng.integers(len(DEGRADATIONS))]
        chain = Chain(damages=((kind, float(rng.random())),), thumbnail=drawn)
        thumbnail = apply_chain(square, chain, options.seed, number)
    else:
        thumbnail = make_thumbnail(square, drawn, rng)
    photo = planar(options.preprocess(Image.fromarray(square)))
    if options.teacher_side_px is None:
        return Draw(photo, thumbnail, None, None)
    reduced = reduce_photo(Image.fromarray(square), options.teacher_side_px)
    resized = planar(options.preprocess(reduced)) if options.teacher_both_routes else None
    return Draw(photo, thumbnail, np.asarray(reduced), resized)


def reduce_photo(photo: Image.Image, side_px: int) -> Image.Image:
    """Return a square photo as a teacher sees it that is shown reduced ones; a smaller one as it is."""
    side = min(side_px, photo.width)
    return photo.resize((side, side), Image.Resampling.BICUBIC)


class Canvases(NamedTuple):
    """Thumbnails of a batch that share a canvas.

    Attributes:
        rows: [n] int64, their places in the batch.
        pixels: [n, 3, S, S] uint8; the rest of the canvas repeats the thumbnail's edge.
        box: [n, 4] float32 (top, left, height, width) of the thumbnail.
    """

    rows: Tensor
    pixels: Tensor
    box: Tensor


class AdaptBatch(NamedTuple):
    """A batch of draws.

    Attributes:
        photo: [B, 3, R, R] uint8.
        thumbnails: by canvas.
        reduced: what the teacher sees, by canvas; empty where it sees the photo.
        resized: [B, 3, R, R] uint8, the same by the native route; None where the teacher is not asked about it.
    """

    photo: Tensor
    thumbnails: list[Canvases]
    reduced: list[Canvases]
    resized: Tensor | None


def collate(draws: Sequence[Draw]) -> AdaptBatch:
    """Make a batch."""
    resized = [d.resized for d in draws if d.resized is not None]
    return AdaptBatch(
        photo=torch.from_numpy(np.stack([d.photo for d in draws])),
        thumbnails=on_canvases([d.thumbnail for d in draws]),
        reduced=on_canvases([d.reduced for d in draws if d.reduced is not None]),
        resized=torch.from_numpy(np.stack(resized)) if resized else None,
    )


def on_canvases(images: Sequence[np.ndarray]) -> list[Canvases]:
    """Put square images [s, s, 3] of up to 128 px on canvases; rows count from 0."""
    by_size: dict[int, list[int]] = {}
    for row, image in enumerate(images):
        by_size.setdefault(min(s for s in CANVAS_SIZES_PX if s >= len(image)), []).append(row)
    return [_canvases([images[row] for row in rows], rows, size) for size, rows in sorted(by_size.items())]


def _canvases(images: Sequence[np.ndarray], rows: Sequence[int], size: int) -> Canvases:
    padded = [np.pad(image, ((0, size - len(image)), (0, size - len(image)), (0, 0)), mode="edge") for image in images]
    return Canvases(
        rows=torch.tensor(rows),
        pixels=torch.from_numpy(np.stack(padded).transpose(0, 3, 1, 2).copy()),
        box=torch.tensor([[0.0, 0.0, float(len(image)), float(len(image))] for image in images]),
    )


class DrawDataset(NumberedDraws[Draw]):
    """Thumbnails of photos.

    Args:
        photos: what to draw from.
        options: how.
        n_draws: see `NumberedDraws`.
        first: likewise.
    """

    def __init__(self, photos: Photos, options: DrawOptions, *, n_draws: int, first: int) -> None:
        super().__init__(n_draws, first)
        self.photos = photos
        self.options = options
        self.order = PhotoOrder(len(photos), options.seed)

    def draw(self, number: int) -> Draw:
        """See `NumberedDraws.draw`."""
        return draw(self.photos.square(self.order.row(number)), number, self.options)
