"""All labelled pictures of a run, and all names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipsr_training import prompts
from clipsr_training.data import PairSource


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The pictures of several sources under one numbering, and the names of all.

    Attributes:
        sources: where pictures come from.
        names: [C] without repetition.
        source: [N] of each picture.
        row: [N] of it in its source.
        name: [N] of it, in `names`.
        is_choice: [sources, C] the names that a source's pictures have.
    """

    sources: Sequence[PairSource]
    names: tuple[str, ...]
    source: np.ndarray
    row: np.ndarray
    name: np.ndarray
    is_choice: np.ndarray

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.name)

    def square(self, index: int) -> np.ndarray:
        """Return the central square of a picture, RGB uint8 [S, S, 3]; raise as `PairSource.image`."""
        image = self.sources[self.source[index]].image(int(self.row[index]))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return np.asarray(image.crop((left, top, left + side, top + side)))


def pool_sources(sources: Sequence[PairSource], *, hold_out: bool) -> Pool:
    """Join sources.

    Args:
        sources: each with classes.
        hold_out: leave out the pictures and names of held-out classes.

    Raises:
        ValueError: a source has captions instead of classes, or fewer than two names are left.
    """
    for source in sources:
        if not source.has_classes:
            raise ValueError(f"{source.name} has captions: an image tower is trained on pictures with class labels")
    kept = [[not (hold_out and prompts.is_held_out(name)) for name in source.phrases] for source in sources]
    names = tuple(
        dict.fromkeys(
            name
            for source, own in zip(sources, kept, strict=True)
            for name, is_kept in zip(source.phrases, own, strict=True)
            if is_kept
        )
    )
    if len(names) < 2:
        raise ValueError(f"{len(names)} names are too few to tell pictures apart by: two at least")
    place = {name: i for i, name in enumerate(names)}
    parts: list[np.ndarray] = []
    is_choice = np.zeros((len(sources), len(names)), dtype=bool)
    for number, (source, own) in enumerate(zip(sources, kept, strict=True)):
        classes = np.array([texts[0] for texts in source.texts])
        rows = np.flatnonzero(np.array(own)[classes])
        columns = np.array([place.get(name, -1) for name in source.phrases])[classes[rows]]
        parts.append(np.stack((np.full(len(rows), number), rows, columns)))
        is_choice[number, columns] = True
    source, row, name = np.concatenate(parts, axis=1)
    return Pool(sources=sources, names=names, source=source, row=row, name=name, is_choice=is_choice)
