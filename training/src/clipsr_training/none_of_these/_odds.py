"""How much better a bank of names fits an image than the labels do. `clipsr_serving` computes the same."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

MAX_LABEL_COSINE = 0.8


@dataclass(frozen=True, kw_only=True)
class Cosines:
    """Images, classes and a bank of names, compared once for any choice of labels among the classes.

    Attributes:
        labels: [N, C] of images and classes.
        names: [N, B] of images and names.
        between: [B, C] of names and classes.
        says: [B, C] whether a name has a class's words, or the other way round.
    """

    labels: np.ndarray
    names: np.ndarray
    between: np.ndarray
    says: np.ndarray

    def log_odds(self, chosen: np.ndarray, logit_scale: float) -> np.ndarray:
        """Return [N] log-odds of the chosen classes against the names that mean something else.

        Both are means of exp(logit_scale * cosine), so that they hold for few labels and for many.

        Args:
            chosen: [K] classes.
            logit_scale: of the model.

        Raises:
            ValueError: no name means something else.
        """
        is_other = (self.between[:, chosen].max(axis=1) <= MAX_LABEL_COSINE) & ~self.says[:, chosen].any(axis=1)
        if not is_other.any():
            raise ValueError(f"none of {len(is_other)} names means something else than the labels; name other things")
        shown, others = self.labels[:, chosen], self.names[:, is_other]
        sums = [logsumexp(logit_scale * part, axis=1) - np.log(part.shape[1]) for part in (shown, others)]
        return sums[0] - sums[1]


def compare(
    images: np.ndarray,
    classes: np.ndarray,
    names: np.ndarray,
    classnames: Sequence[str],
    bank: Sequence[str],
) -> Cosines:
    """Compare embeddings [N, D], [C, D] and [B, D] of unit length, and the words of classes and names."""
    return Cosines(
        labels=images.astype(np.float64) @ classes.T,
        names=images.astype(np.float64) @ names.T,
        between=names @ classes.T,
        says=share_words(bank, classnames),
    )


def share_words(names: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Say of each name and label [B, K] whether the words of one stand, in their order, in the other."""
    own, asked = [_words(name) for name in names], [_words(label) for label in labels]
    parts, parts_asked = [set(_parts(words)) for words in own], [set(_parts(words)) for words in asked]
    return np.array(
        [
            [words in of_label or label in of_name for label, of_label in zip(asked, parts_asked, strict=True)]
            for words, of_name in zip(own, parts, strict=True)
        ],
        dtype=bool,
    ).reshape(len(own), len(asked))


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _parts(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for start in range(len(words)):
        for end in range(start + 1, len(words) + 1):
            yield words[start:end]
