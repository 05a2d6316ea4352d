"""What the text tower is to answer: the teachers' embeddings of each phrase's target, joined and made narrower."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from clipsr_training._files import write_array
from clipsr_training.text._teachers import Teacher

_BATCH = 64
# Texts of one file: what a killed run has to ask again at most.
_CHUNK = 2048


def embed_targets(teachers: Sequence[Teacher], texts: Sequence[str], folder: Path) -> list[np.ndarray]:
    """Return each teacher's embeddings of texts, [n, D] of unit length, kept in a folder for the next run.

    Args:
        teachers: who is asked.
        texts: what.
        folder: for files of some texts each, named by the teacher and the texts, and written as a whole.

    Raises:
        OSError: a file can't be written.
        ValueError: a teacher's answer is not finite.
    """
    # Texts of one length need no padding.
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), texts[i]))
    place = np.argsort(order)
    ordered = [texts[i] for i in order]
    return [np.concatenate(list(_chunks(teacher, ordered, folder)))[place] for teacher in teachers]


def _chunks(teacher: Teacher, texts: Sequence[str], folder: Path) -> Iterator[np.ndarray]:
    for start in track(range(0, len(texts), _CHUNK), description=f"targets by {teacher.name}"):
        own = texts[start : start + _CHUNK]
        digest = hashlib.sha256("\0".join([teacher.sha256, *own]).encode()).hexdigest()
        path = folder / f"{teacher.name}-{digest[:16]}.npy"
        yield np.load(path) if path.is_file() else write_array(path, len(own), _batches(teacher, own))


def _batches(teacher: Teacher, texts: Sequence[str]) -> Iterator[np.ndarray]:
    for start in range(0, len(texts), _BATCH):
        own = texts[start : start + _BATCH]
        features = teacher.encode(own)
        if not np.isfinite(features).all():
            raise ValueError(f"{teacher.name} answers {own[0]!r} or a text near it with numbers that are not finite")
        yield features.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Projection:
    """How embeddings of several teachers become one: joined, each centred, and of them the principal components.

    Attributes:
        means: [D_i] of each teacher.
        components: [sum of D_i, D].
    """

    means: Sequence[np.ndarray]
    components: np.ndarray

    @classmethod
    def fit(cls, parts: Sequence[np.ndarray], embed_dim: int) -> Projection:
        """Find the components.

        Args:
            parts: [n, D_i] of unit length.
            embed_dim: D, components to keep.

        Raises:
            ValueError: there are fewer components than D.
        """
        means = [part.mean(axis=0, dtype=np.float64) for part in parts]
        joined = _join(parts, means)
        if embed_dim > min(joined.shape):
            raise ValueError(
                f"{joined.shape[0]} texts of {joined.shape[1]} numbers have no {embed_dim} principal components"
            )
        _, vectors = np.linalg.eigh(joined.T @ joined)
        components = vectors[:, ::-1][:, :embed_dim]
        # The sign of an eigenvector is arbitrary; this one is the same on every machine.
        largest = np.abs(components).argmax(axis=0)
        return cls(means=means, components=components * np.sign(components[largest, np.arange(embed_dim)]))

    def __call__(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Map [n, D_i] of unit length to [n, D] float32 of unit length."""
        projected = _join(parts, self.means) @ self.components
        return (projected / np.linalg.norm(projected, axis=1, keepdims=True)).astype(np.float32)


def _join(parts: Sequence[np.ndarray], means: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([part - mean for part, mean in zip(parts, means, strict=True)], axis=1)
