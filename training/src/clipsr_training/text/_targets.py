"""What the text tower is to answer: the teachers' embeddings of each phrase's target, joined and made narrower."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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


def project(parts: Sequence[np.ndarray], embed_dim: int) -> np.ndarray:
    """Join embeddings of several teachers, each centred, and keep their principal components.

    Args:
        parts: [n, D_i] of unit length.
        embed_dim: D, components to keep.

    Returns:
        [n, D] float32 of unit length.

    Raises:
        ValueError: there are fewer components than D.
    """
    joined = np.concatenate([part - part.mean(axis=0, dtype=np.float64) for part in parts], axis=1)
    if embed_dim > min(joined.shape):
        raise ValueError(
            f"{joined.shape[0]} texts of {joined.shape[1]} numbers have no {embed_dim} principal components"
        )
    _, vectors = np.linalg.eigh(joined.T @ joined)
    components = vectors[:, ::-1][:, :embed_dim]
    # The sign of an eigenvector is arbitrary; this one is the same on every machine.
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, np.arange(embed_dim)])
    projected = joined @ components
    return (projected / np.linalg.norm(projected, axis=1, keepdims=True)).astype(np.float32)
