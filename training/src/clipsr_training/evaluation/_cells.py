"""Measurements in cells: all images of a set, prepared in one way, by one route; each is logged when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clipsr_training.data import ImageSet
from clipsr_training.evaluation._backends.base import Backend, Classifier
from clipsr_training.evaluation._backends.pixels import Route
from clipsr_training.evaluation._log import RunLog

LOG_NAME = "cells.jsonl"
Condition = Mapping[str, str | int | None]


class CellKey(NamedTuple):
    """What tells a cell from the others of a measurement: the set's name, and the condition's items."""

    set_name: str
    condition: frozenset[tuple[str, str | int | None]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One set under one condition.

    Attributes:
        images: the set.
        condition: what the log says of it, beside the set's name.
        route: how the prepared images reach the encoder.
        prepare: maps an image's file, its name and its number in the set to the file that is classified.
        backend: the model, where it isn't that of the measurement.
    """

    images: ImageSet
    condition: Condition
    route: Route
    prepare: Callable[[bytes, str, int], bytes]
    backend: Backend | None = None

    @property
    def key(self) -> CellKey:
        """What tells this cell from others."""
        return CellKey(self.images.name, frozenset(self.condition.items()))


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What all cells share.

    Attributes:
        backend: the model.
        templates: prompts, or one `@name`.
        batch_size: images given to the back end at once.
        settings: everything that a cell's figures depend on, beside its key.
    """

    backend: Backend
    templates: tuple[str, ...]
    batch_size: int
    settings: Mapping[str, object]


def measure_cells(
    measurement: Measurement,
    cells: Sequence[Cell],
    folder: Path,
    *,
    resume: bool,
    on_images: Callable[[int], None] = lambda _: None,
) -> dict[CellKey, np.ndarray]:
    """Classify the images of every cell.

    Args:
        measurement: what all cells share.
        cells: those of one set follow each other.
        folder: gets `cells.jsonl`.
        resume: keep the cells of the log that is there.
        on_images: called with the number of images done.

    Returns:
        For every cell [N] whether each image is classified right.

    Raises:
        ValueError: an image can't be classified, or the log holds another measurement.
        OSError: the service fails, or the log can't be written; the log holds the cells that are done.
    """
    found: dict[CellKey, np.ndarray] = {}
    with RunLog(folder / LOG_NAME, measurement.settings, resume=resume) as log:
        for entry in log.entries:
            correct = np.array([digit == "1" for digit in entry.pop("correct")], dtype=bool)
            found[CellKey(entry.pop("set"), frozenset(entry.items()))] = correct
        classifiers: dict[int, Classifier] = {}
        classifiers_of: ImageSet | None = None
        for cell in cells:
            if cell.key in found:
                on_images(len(cell.images))
                continue
            if classifiers_of is not cell.images:
                classifiers, classifiers_of = {}, cell.images
            backend = cell.backend or measurement.backend
            if id(backend) not in classifiers:
                classifiers[id(backend)] = backend.classifier(cell.images.classnames, measurement.templates)
            found[cell.key] = _measure(cell, classifiers[id(backend)], measurement.batch_size, on_images)
            digits = "".join("1" if hit else "0" for hit in found[cell.key])
            log.append({"set": cell.images.name, **cell.condition, "correct": digits})
    return found


def _measure(cell: Cell, classifier: Classifier, batch_size: int, on_images: Callable[[int], None]) -> np.ndarray:
    images = cell.images
    predicted = np.empty(len(images), dtype=np.int64)
    for start in range(0, len(images), batch_size):
        rows = range(start, min(start + batch_size, len(images)))
        names = [images.names[i] for i in rows]
        files = [cell.prepare(images.read(i), images.names[i], i) for i in rows]
        predicted[rows] = classifier.rank(files, names, route=cell.route, k=1).indices[:, 0]
        on_images(len(rows))
    return predicted == images.targets
