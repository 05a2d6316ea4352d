"""Image-text training data: decoded once, rendered once onto the encoder's pixel grid, augmented by the batch."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset as TableDataset
from datasets import Image as ImageColumn
from datasets import load_dataset
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from clipsr_training import prompts
from clipsr_training.liif import Upscaler, full_box

# Larger batches fall out of the cache: 256 images took 2.5 times as long an image as 32.
_RENDER_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images of one size with class labels.

    Attributes:
        images: [N, H, W, 3] uint8 RGB.
        targets: [N] int64 index into `classnames`.
        classnames: label of each class, as written in prompts.
    """

    images: np.ndarray
    targets: np.ndarray
    classnames: tuple[str, ...]


class ClipBatch(NamedTuple):
    """A training batch.

    Attributes:
        pixels: [B, 3, R, R] uint8.
        tokens: [T, L] int64, one text a concept that occurs in the batch.
        is_positive: [B, T] which text describes which image.
    """

    pixels: Tensor
    tokens: Tensor
    is_positive: Tensor


def read_parquet(path: Path, webp_quality: int | None = None) -> LabelledImages:
    """Read a Parquet file of the `datasets` layout: an `image` column and a `label` column with class names.

    Args:
        path: the file.
        webp_quality: encode images that are stored losslessly as WebP of this quality (1-100) and decode them again.
            Where one data set is lossy and another is not, a model learns to tell the two apart by the artifacts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing, the labels have no names, an image can't be decoded, or the images differ in
            size.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no data at {path}")
    table = load_dataset("parquet", data_files=str(path), split="train")
    assert isinstance(table, TableDataset)
    missing = {"image", "label"} - set(table.column_names)
    if missing:
        raise ValueError(f"{path} has no column {' or '.join(sorted(missing))}; it has {', '.join(table.column_names)}")
    names = getattr(table.features["label"], "names", None)
    if names is None:
        raise ValueError(f"{path}: the label column has no class names (a datasets ClassLabel)")
    table = table.cast_column("image", ImageColumn(decode=False))
    images = [_decode(image["bytes"], webp_quality, f"{path}, row {i}") for i, image in enumerate(table["image"])]
    sizes = {image.shape for image in images}
    if len(sizes) != 1:
        raise ValueError(f"{path} holds images of {len(sizes)} sizes; training needs one")
    return LabelledImages(
        images=np.stack(images),
        targets=np.asarray(table["label"], dtype=np.int64),
        classnames=tuple(name.replace("_", " ") for name in names),
    )


def _decode(encoded: bytes, webp_quality: int | None, where: str) -> np.ndarray:
    try:
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
    except OSError as error:
        raise ValueError(f"{where}: the image can't be decoded ({error})") from error
    if webp_quality is not None and not _is_lossy(encoded):
        lossy = io.BytesIO()
        image.save(lossy, "WEBP", quality=webp_quality)
        image = Image.open(lossy).convert("RGB")
    return np.asarray(image)


def _is_lossy(encoded: bytes) -> bool:
    # JPEG by its first marker; of WebP's two codecs, "VP8 " is the lossy one and "VP8L" the lossless one (RFC 9649).
    is_jpeg = encoded.startswith(b"\xff\xd8")
    is_webp = encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP"
    return is_jpeg or (is_webp and b"VP8 " in encoded[12:64])


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
            # bf16 moves a pixel by a level at most, and is several times faster where the processor has it.
            with torch.autocast("cpu", torch.bfloat16):
                feat = upscaler.features(lr.contiguous(memory_format=torch.channels_last))
                sr = upscaler.render(feat, box.expand(len(lr), 4), grid).float()
        output[start : start + _RENDER_BATCH] = (sr * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return output


def render_cached(
    images: np.ndarray, upscaler: Upscaler | None, image_size_px: int, cache: Path, version: str
) -> np.ndarray:
    """Like `render`, but read from `cache` where the same images were rendered with the same weights before.

    Args:
        images: see `render`.
        upscaler: see `render`.
        image_size_px: see `render`.
        cache: folder of rendered arrays; made if missing.
        version: digest of the upscaler's weights.
    """
    key = hashlib.sha256(images.tobytes() + version.encode() + str((images.shape, image_size_px)).encode()).hexdigest()
    path = cache / f"{key[:32]}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        np.save(partial, render(images, upscaler, image_size_px))
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def split_validation(targets: np.ndarray, n_per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (train, validation) with `n_per_class` validation images of every class."""
    rng = np.random.default_rng(seed)
    validation = np.concatenate(
        [rng.permutation(np.flatnonzero(targets == c))[:n_per_class] for c in np.unique(targets)]
    )
    is_validation = np.zeros(len(targets), dtype=bool)
    is_validation[validation] = True
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


class ConceptTexts:
    """Token ids of every way to say a concept: its label and synonyms in every template.

    Args:
        classnames: the concepts' labels.
        templates: each with one `{}`.
        tokenizer: maps texts to int64 [N, L].
    """

    def __init__(
        self, classnames: Sequence[str], templates: Sequence[str], tokenizer: Callable[[list[str]], Tensor]
    ) -> None:
        words = prompts.synonyms()
        self.tokens = [
            tokenizer([prompts.expand(t, word) for word in (name, *words.get(name, ())) for t in templates])
            for name in classnames
        ]
        # The published label is drawn as often as all its synonyms together: evaluation uses it alone.
        self.n_label = len(templates)

    def draw(self, concept: int, rng: np.random.Generator) -> Tensor:
        """Return the token ids [L] of one text for the concept."""
        tokens = self.tokens[concept]
        n_synonyms = len(tokens) - self.n_label
        if n_synonyms and rng.random() < 0.5:
            return tokens[self.n_label + rng.integers(n_synonyms)]
        return tokens[rng.integers(self.n_label)]


class ClipBatchDataset(Dataset[ClipBatch]):
    """One epoch of whole batches; batch i is a pure function of (seed, epoch, i), so that a run can be resumed.

    Args:
        pixels: arrays [N_k, 3, R, R] uint8, one a source.
        concepts: arrays [N_k] of concept indices, one a source.
        rows: which images of each source take part.
        texts: the concepts' texts.
        batch_size: B.
        seed: of order, augmentation and choice of texts.
        epoch: which epoch this is.
    """

    def __init__(
        self,
        pixels: Sequence[np.ndarray],
        concepts: Sequence[np.ndarray],
        rows: Sequence[np.ndarray],
        texts: ConceptTexts,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
    ) -> None:
        self.pixels = pixels
        self.concepts = concepts
        self.texts = texts
        self.batch_size = batch_size
        self.seed = (seed, epoch)
        source = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        pairs = np.stack((source, np.concatenate(rows)), axis=1)
        self.order = np.random.default_rng(self.seed).permutation(pairs)

    def __len__(self) -> int:
        """Return the number of full batches; the remainder changes from epoch to epoch."""
        return len(self.order) // self.batch_size

    def __iter__(self) -> Iterator[ClipBatch]:
        """Iterate over the epoch."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> ClipBatch:
        """Return one batch; see `ClipBatch`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((*self.seed, index))
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        pixels = np.stack([self.pixels[source][row] for source, row in chosen])
        concept = np.array([self.concepts[source][row] for source, row in chosen])
        present, position = np.unique(concept, return_inverse=True)
        return ClipBatch(
            pixels=augment(torch.from_numpy(pixels), rng),
            tokens=torch.stack([self.texts.draw(c, rng) for c in present]),
            is_positive=functional.one_hot(torch.from_numpy(position), len(present)).bool(),
        )


def augment(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Flip at random and shift by up to an eighth with reflected borders, as usual on CIFAR.

    Args:
        pixels: [B, 3, R, R] uint8.
        rng: source of all draws.
    """
    batch, _, side, _ = pixels.shape
    reach = side // 8
    # Reflection by index: -1 -> 1, side -> side - 2.
    line = np.arange(side)
    rows = line + rng.integers(-reach, reach + 1, size=(batch, 1))
    columns = np.where(rng.random((batch, 1)) < 0.5, line, line[::-1]) + rng.integers(
        -reach, reach + 1, size=(batch, 1)
    )
    rows, columns = (np.abs(side - 1 - np.abs(side - 1 - index)) for index in (rows, columns))
    flat = torch.from_numpy(rows[:, :, None] * side + columns[:, None, :]).reshape(batch, 1, -1)
    return pixels.reshape(batch, 3, -1).gather(2, flat.expand(-1, 3, -1)).reshape(pixels.shape)
