"""What another model says of the undamaged pictures, so that what it knows is not forgotten."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from clipsr_training import prompts
from clipsr_training._files import make_output_folder, to_json, write_array
from clipsr_training._identity import digest_modules
from clipsr_training._precision import autocast
from clipsr_training.adapt._train import embed_anchors
from clipsr_training.clip import ClipCheckpoint
from clipsr_training.clip._distillation import soften
from clipsr_training.clip._preprocess import Fitting, make_preprocess, planar
from clipsr_training.data import PairSource
from clipsr_training.tower._pool import Pool

# Larger batches fall out of the cache.
_BATCH = 32
# Pictures of one file: what a killed run has to ask again at most.
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A model's opinion of every picture of a pool.

    Attributes:
        nouns: [A] that it tells apart.
        texts: [A, D] its unit embeddings of them.
        images: for each source [n, D] float16, its embeddings of the undamaged pictures.
        logit_scale: factor on its cosines.
        digest: of all this.
    """

    nouns: tuple[str, ...]
    texts: Tensor
    images: Sequence[np.ndarray]
    logit_scale: float
    digest: str

    def probabilities(self, pool: Pool, index: Tensor) -> Tensor:
        """Return softened probabilities [B, A] of the nouns for pictures of a pool."""
        return soften(self.logit_scale, self.embeddings(pool, index), self.texts.cpu()).to(index.device)

    def embeddings(self, pool: Pool, index: Tensor) -> Tensor:
        """Return unit embeddings [B, D] of pictures of a pool, in memory of the CPU."""
        own = index.cpu().numpy()
        places = zip(pool.source[own], pool.row[own], strict=True)
        images = torch.from_numpy(np.stack([self.images[source][row] for source, row in places])).float()
        return functional.normalize(images, dim=-1)


def ask(
    clip: ClipCheckpoint, nouns: Sequence[str], sources: Sequence[PairSource], folder: Path, *, hold_out: bool
) -> Replay:
    """Ask a model once about every picture, and keep the answers in a folder for the next run.

    Args:
        clip: who is asked.
        nouns: what it tells apart.
        sources: all of their pictures are shown, as they are, by the encoder's native route.
        folder: for the answers; made if missing.
        hold_out: leave out nouns that are held out.

    Raises:
        ValueError: fewer than two nouns are left, or an image can't be decoded.
        OSError: a file can't be written.
    """
    asked = tuple(noun for noun in nouns if not (hold_out and prompts.is_held_out(noun)))
    if len(asked) < 2:
        raise ValueError(f"{len(asked)} nouns are too few to replay: two at least")
    make_output_folder(folder)
    digest = digest_modules(clip.model, facts=to_json(clip.config))
    return Replay(
        nouns=asked,
        texts=embed_anchors(clip, asked),
        images=[_embed(clip, digest, source, folder) for source in sources],
        logit_scale=clip.logit_scale,
        digest=hashlib.sha256(f"{digest} {asked}".encode()).hexdigest(),
    )


def _embed(clip: ClipCheckpoint, digest: str, source: PairSource, folder: Path) -> np.ndarray:
    clip.model.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    key = hashlib.sha256(f"{digest} {source.image_digest}".encode()).hexdigest()[:16]
    parts: list[np.ndarray] = []
    for start in track(range(0, len(source), _CHUNK), description=f"replay of {source.name}"):
        end = min(start + _CHUNK, len(source))
        path = folder / f"{key}-{start}.npy"
        known = path.is_file()
        parts.append(np.load(path) if known else write_array(path, end - start, _batches(clip, source, start, end)))
    return np.concatenate(parts)


def _batches(clip: ClipCheckpoint, source: PairSource, start: int, end: int) -> Iterator[np.ndarray]:
    preprocess = make_preprocess(clip.image_size_px, Fitting.of(clip.config.get("preprocess_cfg", {})))
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) * 255 for value in (clip.mean, clip.std))
    for first in range(start, end, _BATCH):
        rows = range(first, min(first + _BATCH, end))
        pixels = torch.from_numpy(np.stack([planar(preprocess(source.image(row))) for row in rows]))
        with torch.inference_mode(), autocast():
            features = clip.encode_image(((pixels - mean) / std).contiguous(memory_format=torch.channels_last))
        unit = functional.normalize(features.float(), dim=-1)
        if not unit.isfinite().all():
            raise ValueError(f"the replayed model answers {source.where(first)} or an image near it with no number")
        yield cast("np.ndarray", unit.numpy()).astype(np.float16)
