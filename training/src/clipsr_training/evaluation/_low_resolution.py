"""Accuracy at reduced resolutions, with each way to render the reduced image on the encoder's grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsr_training.data import ImageSet, decode
from clipsr_training.data._images import read_size
from clipsr_training.evaluation._backends.base import Backend, Classifier
from clipsr_training.evaluation._backends.pixels import Rendering, prepare_rendering, reduce_to
from clipsr_training.evaluation._log import RunLog
from clipsr_training.evaluation._robustness import SetAccuracy, published_weights
from clipsr_training.evaluation._statistics import Estimate, PairedTest, compare_paired, wilson

LOG_NAME = "cells.jsonl"
# The reference: the unreduced image, on the route that it would take by itself.
_REFERENCE = "reference"


@dataclass(frozen=True, kw_only=True)
class LowResolutionPlan:
    """What is measured.

    Attributes:
        backend: the model.
        sets: labelled images.
        templates: prompts, or one `@name`.
        sizes_px: sides that images are reduced to.
        renderings: how the reduced images are rendered.
        batch_size: images given to the back end at once.
    """

    backend: Backend
    sets: tuple[ImageSet, ...]
    templates: tuple[str, ...]
    sizes_px: tuple[int, ...]
    renderings: tuple[Rendering, ...]
    batch_size: int

    def settings(self) -> dict[str, object]:
        """Return everything that a cell's figures depend on."""
        return {
            "model": self.backend.describe(),
            "data": {images.name: images.digest for images in self.sets},
            "templates": self.templates,
        }

    def cells(self) -> list[Cell]:
        """Return what is measured, in order; sizes that a set's images don't have are left out."""
        cells: list[Cell] = []
        for i, images in enumerate(self.sets):
            cells.append(Cell(set_index=i, size_px=None, rendering=None))
            smallest = smallest_side_px(images)
            sizes = [size for size in self.sizes_px if size <= smallest]
            cells += [Cell(set_index=i, size_px=s, rendering=r) for s in sizes for r in self.renderings]
        return cells


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One set at one size in one rendering; both are None for the reference."""

    set_index: int
    size_px: int | None
    rendering: Rendering | None

    def key(self, plan: LowResolutionPlan) -> tuple[str, int | None, str]:
        """Return what the log calls it."""
        return plan.sets[self.set_index].name, self.size_px, self.rendering or _REFERENCE


@dataclass(frozen=True, kw_only=True)
class SetCurves:
    """One set's accuracies.

    Attributes:
        name: of the set.
        n_classes: C.
        n_images: N.
        weight: LR0.FM's weight of the set in WAR; None where it gives none.
        skipped_px: sizes above the smallest image's side.
        reference: [N] whether the unreduced image is classified right.
        correct: [N] for every size and rendering.
    """

    name: str
    n_classes: int
    n_images: int
    weight: float | None
    skipped_px: tuple[int, ...]
    reference: np.ndarray
    correct: Mapping[tuple[int, Rendering], np.ndarray]

    def reference_top1(self) -> Estimate:
        """Return top-1 on the unreduced images."""
        return wilson(int(self.reference.sum()), self.n_images)

    def top1(self, size_px: int, rendering: Rendering) -> Estimate | None:
        """Return top-1; None where it was not measured."""
        correct = self.correct.get((size_px, rendering))
        return None if correct is None else wilson(int(correct.sum()), self.n_images)

    def set_accuracy(self, size_px: int, rendering: Rendering) -> SetAccuracy | None:
        """Return what robustness is computed from; None where it was not measured."""
        correct = self.correct.get((size_px, rendering))
        if correct is None:
            return None
        return SetAccuracy(
            reduced=float(correct.mean()),
            reference=float(self.reference.mean()),
            n_classes=self.n_classes,
            weight=self.weight or 1.0,
        )

    def compare(self, size_px: int, a: Rendering, b: Rendering) -> PairedTest | None:
        """Test two renderings on the same images; None where one was not measured."""
        if (size_px, a) not in self.correct or (size_px, b) not in self.correct:
            return None
        return compare_paired(self.correct[size_px, a], self.correct[size_px, b])


def measure_low_resolution(
    plan: LowResolutionPlan,
    cells: Sequence[Cell],
    folder: Path,
    *,
    resume: bool,
    on_images: Callable[[int], None] = lambda _: None,
) -> tuple[SetCurves, ...]:
    """Measure every cell, logging each as it is done.

    Args:
        plan: what is measured.
        cells: of the plan.
        folder: gets `cells.jsonl`.
        resume: keep the cells of the log that is there.
        on_images: called with the number of images done.

    Raises:
        ValueError: an image can't be classified, or the log holds another measurement.
        OSError: the service fails, or the log can't be written; the log holds the cells that are done.
    """
    found: dict[tuple[str, int | None, str], np.ndarray] = {}
    with RunLog(folder / LOG_NAME, plan.settings(), resume=resume) as log:
        for entry in log.entries:
            found[entry["set"], entry["size_px"], entry["rendering"]] = _from_digits(entry["correct"])
        classifier: Classifier | None = None
        classifier_of = -1
        for cell in cells:
            key, images = cell.key(plan), plan.sets[cell.set_index]
            if key in found:
                on_images(len(images))
                continue
            if classifier is None or classifier_of != cell.set_index:
                classifier = plan.backend.classifier(images.classnames, plan.templates)
                classifier_of = cell.set_index
            found[key] = _measure(plan, cell, classifier, on_images)
            log.append(dict(zip(("set", "size_px", "rendering"), key, strict=True)) | {"correct": _digits(found[key])})
    return tuple(_curves(plan, i, found) for i in range(len(plan.sets)))


def _measure(
    plan: LowResolutionPlan, cell: Cell, classifier: Classifier, on_images: Callable[[int], None]
) -> np.ndarray:
    images = plan.sets[cell.set_index]
    predicted = np.empty(len(images), dtype=np.int64)
    for start in range(0, len(images), plan.batch_size):
        rows = range(start, min(start + plan.batch_size, len(images)))
        names = [images.names[i] for i in rows]
        files = [images.read(i) for i in rows]
        route = "auto"
        if cell.size_px is not None and cell.rendering is not None:
            size_px, rendering = cell.size_px, cell.rendering
            reduced = [reduce_to(decode(file, name), size_px) for file, name in zip(files, names, strict=True)]
            prepared = [prepare_rendering(image, rendering, plan.backend.image_size_px) for image in reduced]
            files, route = [file for file, _ in prepared], prepared[0][1]
        predicted[rows] = classifier.rank(files, names, route=route, k=1).indices[:, 0]
        on_images(len(rows))
    return predicted == images.targets


def smallest_side_px(images: ImageSet) -> int:
    """Return the shortest side over all images, from their headers."""
    return min(min(read_size(images.read(i), images.names[i])) for i in range(len(images)))


def _curves(plan: LowResolutionPlan, index: int, found: Mapping[tuple[str, int | None, str], np.ndarray]) -> SetCurves:
    images = plan.sets[index]
    correct: dict[tuple[int, Rendering], np.ndarray] = {
        (size, rendering): found[images.name, size, rendering]
        for size in plan.sizes_px
        for rendering in plan.renderings
        if (images.name, size, rendering) in found
    }
    measured = {size for size, _ in correct}
    return SetCurves(
        name=images.name,
        n_classes=len(images.classnames),
        n_images=len(images),
        weight=published_weights().get(images.name),
        skipped_px=tuple(size for size in plan.sizes_px if size not in measured),
        reference=found[images.name, None, _REFERENCE],
        correct=correct,
    )


def set_accuracies(curves: Sequence[SetCurves], size_px: int, rendering: Rendering) -> list[SetAccuracy]:
    """Return the accuracies of the sets that were measured at a size."""
    found = (curve.set_accuracy(size_px, rendering) for curve in curves)
    return [accuracy for accuracy in found if accuracy is not None]


def _digits(correct: np.ndarray) -> str:
    return "".join("1" if hit else "0" for hit in correct)


def _from_digits(text: str) -> np.ndarray:
    return np.array([digit == "1" for digit in text], dtype=bool)
