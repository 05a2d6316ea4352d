"""The texts of captioned pictures, for the recipe that needs them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clipsr_training import prompts
from clipsr_training.adapt._photos import Photos
from clipsr_training.adapt._train import TEMPLATE
from clipsr_training.data import PairSource
from clipsr_training.degradation import generator


@dataclass(frozen=True, kw_only=True)
class Captions:
    """What the pictures show, in words.

    Attributes:
        texts: for each picture the numbers of its texts.
        phrases: all texts, each once.
    """

    texts: Sequence[tuple[int, ...]]
    phrases: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return hashlib.sha256(json.dumps([self.phrases, list(self.texts)], allow_nan=False).encode()).hexdigest()

    def select(self, rows: Sequence[int] | np.ndarray) -> Captions:
        """Return the texts of the pictures at these rows."""
        return Captions(texts=[self.texts[row] for row in rows], phrases=self.phrases)

    def of_batch(self, rows: Sequence[int], numbers: Sequence[int], seed: int) -> tuple[np.ndarray, Tensor]:
        """Choose a text for every picture of a batch, and say which of all chosen ones are right for it.

        Args:
            rows: [B] of the pictures.
            numbers: [B] of their draws.
            seed: of the choice.

        Returns:
            The numbers of the T texts, each once, and [B, T] which describes which picture.
        """
        own = [self.texts[row] for row in rows]
        rngs = (generator(seed, number, "caption") for number in numbers)
        present = np.unique([texts[rng.integers(len(texts))] for texts, rng in zip(own, rngs, strict=True)])
        return present, torch.from_numpy(np.stack([np.isin(present, texts) for texts in own]))


def open_captioned(sources: Sequence[PairSource]) -> tuple[Photos, Captions]:
    """Return the pictures and texts of several sources as one; classes are put into a simple prompt."""
    starts = np.cumsum([0, *map(len, sources)])
    number: dict[str, int] = {}
    texts: list[tuple[int, ...]] = []
    for source in sources:
        said = [prompts.expand(TEMPLATE, phrase) if source.has_classes else phrase for phrase in source.phrases]
        texts += [tuple(number.setdefault(said[i], len(number)) for i in own) for own in source.texts]

    def read(i: int) -> bytes:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return sources[part].encoded(i - int(starts[part]))

    names = [source.where(i) for source in sources for i in range(len(source))]
    return Photos(names=names, read=read), Captions(texts=texts, phrases=tuple(number))
