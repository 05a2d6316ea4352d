"""The bank of "none of these": names of other things, with which a caller's labels are compared as alternatives.

Source: Jiang et al. 2024 (NegLabel, arXiv 2403.20078), with means instead of sums, so that one calibration holds for
few labels and for many, and without names that are near a label, which would compete with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.errors import ArtifactError
from clipsr_serving.manifest import Manifest, NoneOfThese
from clipsr_serving.text.banks import TEXT_ENCODER_ARTIFACT, read_bank

__all__ = ["NoneBank", "read_none_bank"]

Float32 = NDArray[np.float32]

# Labels that are compared with the bank at once: 10,000 with 2,400 names would be 96 MB.
_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class NoneBank:
    """Names that stand for everything that is no label.

    Attributes:
        names: B names.
        text_embedding: FP32 [B, D], L2-normalized.
        calibration: what makes a probability of the comparison.
    """

    names: tuple[str, ...]
    text_embedding: Float32
    calibration: NoneOfThese

    def find_others(self, labels: Sequence[str], text_embedding: Float32) -> NDArray[np.bool_]:
        """Say of each name whether it means something else than every label; BOOL [B].

        A name is left out that has a label's words among its own or the other way round ("pickup truck" and "truck"),
        or whose embedding is near a label's, as that of a synonym is.

        Args:
            labels: K labels.
            text_embedding: FP32 [K, D], L2-normalized.
        """
        said, named = {_words(label) for label in labels}, [_words(name) for name in self.names]
        longest = max(map(len, named))
        said_within = {part for label in said for part in _parts(label, longest)}
        is_other = np.array(
            [name not in said_within and said.isdisjoint(_parts(name, longest)) for name in named], dtype=np.bool_
        )
        for start in range(0, len(labels), _CHUNK):
            nearest = (self.text_embedding @ text_embedding[start : start + _CHUNK].T).max(axis=1)
            is_other &= nearest <= self.calibration.max_label_cosine
        return is_other


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _parts(words: tuple[str, ...], longest: int) -> Iterator[tuple[str, ...]]:
    """Yield the words that follow each other, all and one by one, at most `longest` of them."""
    for start in range(len(words)):
        for end in range(start + 1, min(len(words), start + longest) + 1):
            yield words[start:end]


def read_none_bank(repository: Path, manifest: Manifest) -> NoneBank | None:
    """Read the bank that the manifest names; None where it names none.

    Raises:
        ArtifactError: it is missing, damaged, or of another text encoder.
    """
    entry = manifest.none_of_these
    if entry is None:
        return None
    artifact = manifest.artifacts.get(TEXT_ENCODER_ARTIFACT)
    try:
        bank = read_bank(
            repository / entry.file, "" if artifact is None else artifact.sha256, manifest.image_encoder.embed_dim
        )
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{repository / entry.file} cannot be used: {error}; run `make export` again") from error
    if not bank.labels:
        raise ArtifactError(f"{repository / entry.file} holds no names; run `make export` again")
    return NoneBank(names=bank.labels, text_embedding=bank.text_embedding, calibration=entry)
