"""Image-text training data: decoded once, rendered once onto the encoder's pixel grid, augmented by the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from clipsr_training import prompts
from clipsr_training._precision import autocast
from clipsr_training.data import PairSource
from clipsr_training.liif import Upscaler, full_box
from clipsr_training.liif._upscaler import to_uint8

# Larger batches fall out of the cache: 256 images took 2.5 times as long an image as 32.
_RENDER_BATCH = 32


class RowReader(Protocol):
    """An array of rows, in memory or not."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray:
        """Return the rows of an index array."""
        ...


class ClipBatch(NamedTuple):
    """A batch of N devices, with one device's part of its images and texts.

    Attributes:
        pixels: [B, 3, R, R] uint8, the device's images of the N * B.
        tokens: [ceil(T / N), L] int64, the device's texts of the T, one a concept that occurs in the batch; the last
            parts are filled up to equal length.
        is_positive: [N * B, T] which text of the whole batch describes which image.
    """

    pixels: Tensor
    tokens: Tensor
    is_positive: Tensor


@torch.inference_mode()
def render(images: np.ndarray, upscaler: Upscaler | None, image_size_px: int) -> np.ndarray:
    """Render images onto the encoder's grid as the service does: LIIF on the largest centred square, in uint8.

    Args:
        images: [N, H, W, 3] uint8.
        upscaler: None for antialiased bicubic interpolation.
        image_size_px: R.

    Returns:
        [N, 3, R, R] uint8.
    """
    _, height, width, _ = images.shape
    side = min(height, width)
    box = full_box(1, (side, side)) + torch.tensor([[(height - side) / 2, (width - side) / 2, 0, 0]])
    grid = (image_size_px, image_size_px)
    output = np.empty((len(images), 3, *grid), dtype=np.uint8)
    for start in range(0, len(images), _RENDER_BATCH):
        lr = torch.from_numpy(images[start : start + _RENDER_BATCH]).permute(0, 3, 1, 2)
        if upscaler is None:
            square = lr[:, :, (height - side) // 2 :, (width - side) // 2 :][:, :, :side, :side].float() / 255
            sr = functional.interpolate(square, grid, mode="bicubic", antialias=True)
        else:
            # bf16 moves a pixel by a level at most.
            with autocast():
                feat = upscaler.features(lr.contiguous(memory_format=torch.channels_last))
                sr = upscaler.render(feat, box.expand(len(lr), 4), grid).float()
        output[start : start + _RENDER_BATCH] = to_uint8(sr).numpy()
    return output


@dataclass(frozen=True, kw_only=True)
class TrainingSource:
    """A source of pairs that is rendered, split and numbered in the phrases of all sources.

    Attributes:
        name: for logs.
        pixels: gives [n, 3, R, R] uint8 for an index array of n images.
        texts: for each image the indices of its texts in `ClassPrompts`.
        has_classes: the texts are classes.
        train: images to train on.
        validation: images kept off training.
    """

    name: str
    pixels: RowReader
    texts: Sequence[tuple[int, ...]]
    has_classes: bool
    train: np.ndarray
    validation: np.ndarray


def split_validation(source: PairSource, n_per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (train, validation), both ascending.

    Args:
        source: what to split.
        n_per_class: validation images of every class; of captions ten times as many, but a tenth of the images at most.
        seed: of the choice.

    Raises:
        ValueError: a class has no image left to train on.
    """
    rng = np.random.default_rng(seed)
    n = len(source)
    if source.has_classes:
        targets = np.array([own[0] for own in source.texts])
        chosen = [rng.permutation(np.flatnonzero(targets == c)) for c in range(len(source.phrases))]
        if few := [name for name, rows in zip(source.phrases, chosen, strict=True) if len(rows) <= n_per_class]:
            raise ValueError(
                f"{source.name}: class {few[0]!r} has no more than the {n_per_class} images that validation takes of "
                "each; add images, or keep fewer with --validation-per-class"
            )
        validation = np.concatenate([rows[:n_per_class] for rows in chosen])
    else:
        validation = rng.permutation(n)[: min(10 * n_per_class, n // 10)]
    is_validation = np.zeros(n, dtype=bool)
    is_validation[validation] = True
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


class ClassPrompts:
    """All texts of all sources: captions as they are, classes in every way to say them.

    Args:
        templates: each with one `{}`, for classes.
    """

    def __init__(self, templates: Sequence[str]) -> None:
        self.templates = templates
        self.texts: list[str] = []
        self.is_class: list[bool] = []
        self._number: dict[tuple[str, bool], int] = {}
        self._synonyms = prompts.synonyms()

    def add(self, source: PairSource) -> list[tuple[int, ...]]:
        """Give numbers to the phrases of a source, equal ones of earlier sources alike.

        Return its texts in that numbering.
        """
        number = [self._add(phrase, source.has_classes) for phrase in source.phrases]
        return [tuple(number[i] for i in own) for own in source.texts]

    def _add(self, text: str, is_class: bool) -> int:
        index = self._number.setdefault((text, is_class), len(self.texts))
        if index == len(self.texts):
            self.texts.append(text)
            self.is_class.append(is_class)
        return index

    def draw(self, index: int, rng: np.random.Generator) -> str:
        """Return one text for a phrase; of a class, its label as often as all its synonyms together."""
        text = self.texts[index]
        if not self.is_class[index]:
            return text
        # The label itself has half of the draws: evaluation uses it alone.
        synonyms = self._synonyms.get(text, ())
        word = synonyms[rng.integers(len(synonyms))] if synonyms and rng.random() < 0.5 else text
        return prompts.expand(self.templates[rng.integers(len(self.templates))], word)

    def evaluation_text(self, index: int) -> str:
        """Return the text by which validation asks for a phrase."""
        text = self.texts[index]
        return prompts.expand("a photo of a {}.", text) if self.is_class[index] else text


class ClipBatchDataset(Dataset[ClipBatch]):
    """One epoch of whole batches; batch i is a pure function of (seed, epoch, i), so that a run can be resumed.

    N devices of batch size B divide the batches of one device of batch size N * B among them: the same images, texts
    and random changes.

    Args:
        sources: what to draw from.
        phrases: their texts.
        tokenizer: maps texts to int64 [T, L].
        batch_size: B.
        augmented: flip and shift at random; see `augment`.
        cutout: grey out squares of this part of a side; see `apply_cutout`.
        seed: of order, augmentation and choice of texts.
        epoch: which epoch this is.
        device: which of the devices this is for, from 0.
        n_devices: N.
    """

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        phrases: ClassPrompts,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        batch_size: int,
        augmented: bool,
        cutout: float,
        seed: int,
        epoch: int,
        device: int = 0,
        n_devices: int = 1,
    ) -> None:
        self.sources = sources
        self.phrases = phrases
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.device = device
        self.n_devices = n_devices
        self.augmented = augmented
        self.cutout = cutout
        self.seed = (seed, epoch)
        rows = [s.train for s in sources]
        source = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        pairs = np.stack((source, np.concatenate(rows)), axis=1)
        self.order = np.random.default_rng(self.seed).permutation(pairs)

    def __len__(self) -> int:
        """Return the number of full batches; the remainder changes from epoch to epoch."""
        return len(self.order) // (self.n_devices * self.batch_size)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Iterate over the epoch."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> ClipBatch:
        """Return one batch; see `ClipBatch`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((*self.seed, index))
        n, first = self.n_devices * self.batch_size, self.device * self.batch_size
        chosen = self.order[index * n : (index + 1) * n]
        texts = [self.sources[source].texts[row] for source, row in chosen]
        # An image with several captions shows one of them; the others are right answers too where the batch has them.
        present = np.unique([own[rng.integers(len(own))] for own in texts])
        is_positive = np.stack([np.isin(present, own) for own in texts])
        pixels = torch.from_numpy(self._pixels(chosen[first : first + self.batch_size]))
        if self.augmented:
            pixels = augment(pixels, rng, first=first, of=n)
        if self.cutout:
            apply_cutout(pixels, self.cutout, rng, first=first, of=n)
        drawn = [self.phrases.draw(int(i), rng) for i in present]
        return ClipBatch(
            pixels=pixels, tokens=self.tokenizer(self._own_part(drawn)), is_positive=torch.from_numpy(is_positive)
        )

    def _own_part(self, texts: list[str]) -> list[str]:
        length = math.ceil(len(texts) / self.n_devices)
        # What fills up is encoded and then left out; every device must take part in every exchange.
        filled = texts + texts[:1] * (length * self.n_devices - len(texts))
        return filled[self.device * length : (self.device + 1) * length]

    def _pixels(self, chosen: np.ndarray) -> np.ndarray:
        """Return [B, 3, R, R] uint8 for (source, row) pairs, each source asked once."""
        places = [np.flatnonzero(chosen[:, 0] == k) for k in range(len(self.sources))]
        parts = [source.pixels[chosen[at, 1]] for source, at in zip(self.sources, places, strict=True) if len(at)]
        return np.concatenate(parts)[np.argsort(np.concatenate(places))]


def augment(pixels: Tensor, rng: np.random.Generator, *, first: int = 0, of: int | None = None) -> Tensor:
    """Flip at random and shift by up to an eighth with reflected borders, as usual on CIFAR.

    Args:
        pixels: [B, 3, R, R] uint8.
        rng: source of all draws.
        first: place of these images in the batch that they are a part of.
        of: size of that batch, for all of which is drawn; None: they are all of it.
    """
    batch, _, side, _ = pixels.shape
    own, drawn = slice(first, first + batch), (of or batch, 1)
    reach = side // 8
    # Reflection by index: -1 -> 1, side -> side - 2.
    line = np.arange(side)
    rows = line + rng.integers(-reach, reach + 1, size=drawn)[own]
    columns = np.where(rng.random(drawn)[own] < 0.5, line, line[::-1])
    columns = columns + rng.integers(-reach, reach + 1, size=drawn)[own]
    rows, columns = (np.abs(side - 1 - np.abs(side - 1 - index)) for index in (rows, columns))
    flat = torch.from_numpy(rows[:, :, None] * side + columns[:, None, :]).reshape(batch, 1, -1)
    return pixels.reshape(batch, 3, -1).gather(2, flat.expand(-1, 3, -1)).reshape(pixels.shape)


def apply_cutout(
    pixels: Tensor, part: float, rng: np.random.Generator, *, first: int = 0, of: int | None = None
) -> None:
    """Grey out a square around a random pixel of each image, in place (DeVries and Taylor, arXiv 1708.04552).

    Args:
        pixels: [B, 3, R, R] uint8.
        part: side of the square, of R; at the border it is cut off.
        rng: source of the places.
        first: see `augment`.
        of: see `augment`.
    """
    side = pixels.shape[-1]
    length = round(part * side)
    places = rng.integers(0, side, size=(2, of or len(pixels)))[:, first : first + len(pixels)]
    tops, lefts = places - length // 2
    for image, top, left in zip(pixels, tops, lefts, strict=True):
        image[:, max(0, top) : max(0, top + length), max(0, left) : max(0, left + length)] = 127
