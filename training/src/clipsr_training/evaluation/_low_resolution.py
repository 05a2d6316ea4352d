"""Accuracy at reduced resolutions, with each way to render the reduced image on the encoder's grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipsr_training.data import ImageSet, decode
from clipsr_training.data._images import read_size
from clipsr_training.degradation import FileFormat, Kernel, Thumbnail, generator, make_thumbnail, write_pixels
from clipsr_training.evaluation._backends.base import Backend
from clipsr_training.evaluation._backends.pixels import (
    Rendering,
    encode,
    prepare_rendering,
    reduce_to,
    route_of_rendering,
)
from clipsr_training.evaluation._cells import Cell, CellKey, Condition, Measurement
from clipsr_training.evaluation._robustness import SetAccuracy, published_weights
from clipsr_training.evaluation._statistics import Estimate, PairedTest, bootstrap_mean, compare_paired, wilson

# Noise is a function of the image's number, the same for all renderings.
_NOISE_SEED = 0
# The reference: the unreduced image, on the route that it would take by itself.
_REFERENCE: Condition = {"size_px": None, "kernel": None, "jpeg_quality": None, "rendering": "reference"}


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How reduced images are made.

    Attributes:
        kernel: of the reduction.
        noise: standard deviation of white noise that is added to the reduced image, in levels of 255.
        jpeg_quality: of the file they are saved in, 4:2:0; None saves them losslessly.
    """

    kernel: Kernel = "bicubic"
    noise: float = 0.0
    jpeg_quality: int | None = None

    @property
    def title(self) -> str:
        """What a report calls it."""
        noise = f", noise {self.noise:g}" if self.noise else ""
        return self.kernel + noise + ("" if self.jpeg_quality is None else f", JPEG {self.jpeg_quality}")


class ReducedCondition(NamedTuple):
    """A size, how it was reached, and how the result is rendered."""

    size_px: int
    reduction: Reduction
    rendering: Rendering

    def log(self) -> Condition:
        """Return what the log says."""
        noise = {"noise": f"{self.reduction.noise:g}"} if self.reduction.noise else {}
        return {
            "size_px": self.size_px,
            "kernel": self.reduction.kernel,
            **noise,
            "jpeg_quality": self.reduction.jpeg_quality,
            "rendering": self.rendering,
        }


# What LR-12 is the mean of.
LR12_SIZES_PX = (8, 16, 24, 32)
LR12_REDUCTIONS = (
    Reduction(),
    Reduction(jpeg_quality=75),
    Reduction(kernel="aliased-bilinear", jpeg_quality=90),
)


@dataclass(frozen=True, kw_only=True)
class LowResolutionPlan:
    """What is measured.

    Attributes:
        backend: the model.
        sets: labelled images.
        templates: prompts, or one `@name`.
        sizes_px: sides that images are reduced to.
        reductions: how.
        renderings: how the reduced images are rendered.
        batch_size: images given to the back end at once.
    """

    backend: Backend
    sets: tuple[ImageSet, ...]
    templates: tuple[str, ...]
    sizes_px: tuple[int, ...]
    reductions: tuple[Reduction, ...] = (Reduction(),)
    renderings: tuple[Rendering, ...]
    batch_size: int

    def measurement(self) -> Measurement:
        """Return what all cells share."""
        return Measurement(
            backend=self.backend, templates=self.templates, batch_size=self.batch_size, settings=self.settings()
        )

    def settings(self) -> dict[str, object]:
        """Return everything that a cell's figures depend on."""
        return {
            "model": self.backend.describe(),
            "data": {images.name: images.digest for images in self.sets},
            "templates": self.templates,
        }

    def conditions(self, images: ImageSet) -> Iterator[ReducedCondition]:
        """Yield a set's conditions in order; sizes that its images don't have are left out."""
        smallest = smallest_side_px(images)
        for size_px in self.sizes_px:
            for reduction in self.reductions if size_px <= smallest else ():
                for rendering in self.renderings:
                    yield ReducedCondition(size_px, reduction, rendering)

    def cells(self) -> list[Cell]:
        """Return what is measured, in order."""
        cells: list[Cell] = []
        for images in self.sets:
            cells.append(
                Cell(images=images, condition=_REFERENCE, route="auto", prepare=lambda content, name, i: content)
            )
            cells += [self._cell(images, condition) for condition in self.conditions(images)]
        return cells

    def _cell(self, images: ImageSet, condition: ReducedCondition) -> Cell:
        image_size_px = self.backend.image_size_px

        def prepare(content: bytes, name: str, i: int) -> bytes:
            reduced = reduce_to(decode(content, name), condition.size_px, condition.reduction.kernel)
            saved = _save(np.asarray(reduced), condition.reduction, generator(_NOISE_SEED, i, "noise"))
            return prepare_rendering(saved, condition.rendering, image_size_px)

        return Cell(
            images=images, condition=condition.log(), route=route_of_rendering(condition.rendering), prepare=prepare
        )

    def curves(self, found: Mapping[CellKey, np.ndarray]) -> tuple[SetCurves, ...]:
        """Return what was found of every set."""
        return tuple(self._curves_of(images, found) for images in self.sets)

    def _curves_of(self, images: ImageSet, found: Mapping[CellKey, np.ndarray]) -> SetCurves:
        correct = {
            condition: found[CellKey(images.name, frozenset(condition.log().items()))]
            for condition in self.conditions(images)
        }
        measured = {condition.size_px for condition in correct}
        return SetCurves(
            name=images.name,
            n_classes=len(images.classnames),
            n_images=len(images),
            weight=published_weights().get(images.name),
            skipped_px=tuple(size for size in self.sizes_px if size not in measured),
            reference=found[CellKey(images.name, frozenset(_REFERENCE.items()))],
            correct=correct,
        )


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
        correct: [N] for every condition.
    """

    name: str
    n_classes: int
    n_images: int
    weight: float | None
    skipped_px: tuple[int, ...]
    reference: np.ndarray
    correct: Mapping[ReducedCondition, np.ndarray]

    def reference_top1(self) -> Estimate:
        """Return top-1 on the unreduced images."""
        return wilson(int(self.reference.sum()), self.n_images)

    def sizes_px(self) -> list[int]:
        """Return the sizes that were measured, ascending."""
        return sorted({condition.size_px for condition in self.correct})

    def top1(self, condition: ReducedCondition) -> Estimate | None:
        """Return top-1; None where it was not measured."""
        correct = self.correct.get(condition)
        return None if correct is None else wilson(int(correct.sum()), self.n_images)

    def set_accuracy(self, condition: ReducedCondition) -> SetAccuracy | None:
        """Return what robustness is computed from; None where it was not measured."""
        correct = self.correct.get(condition)
        if correct is None:
            return None
        return SetAccuracy(
            reduced=float(correct.mean()),
            reference=float(self.reference.mean()),
            n_classes=self.n_classes,
            weight=self.weight or 1.0,
        )

    def compare(self, a: ReducedCondition, b: ReducedCondition) -> PairedTest | None:
        """Test two conditions on the same images; None where one was not measured."""
        if a not in self.correct or b not in self.correct:
            return None
        return compare_paired(self.correct[a], self.correct[b])

    def lr12_per_image(self, rendering: Rendering) -> np.ndarray | None:
        """Return each image's share [N] of right answers in LR-12's cells; None where one was not measured."""
        cells = [
            ReducedCondition(size, reduction, rendering) for size in LR12_SIZES_PX for reduction in LR12_REDUCTIONS
        ]
        if not all(cell in self.correct for cell in cells):
            return None
        return np.mean([self.correct[cell] for cell in cells], axis=0)

    def lr12(self, rendering: Rendering) -> Estimate | None:
        """Return LR-12, mean top-1 over its twelve cells, with a bootstrap over the images."""
        per_image = self.lr12_per_image(rendering)
        return None if per_image is None else bootstrap_mean(per_image)

    def lr12_difference(self, a: Rendering, b: Rendering) -> Estimate | None:
        """Return LR-12 of one rendering minus that of another, on the same images."""
        one, two = self.lr12_per_image(a), self.lr12_per_image(b)
        return None if one is None or two is None else bootstrap_mean(one - two)


def _save(pixels: np.ndarray, reduction: Reduction, rng: np.random.Generator) -> bytes:
    size_hw = (pixels.shape[0], pixels.shape[1])
    noisy = make_thumbnail(pixels, Thumbnail(size_hw=size_hw, noise=reduction.noise), rng)
    if reduction.jpeg_quality is None:
        return encode(Image.fromarray(noisy))
    return write_pixels(noisy, FileFormat(quality=reduction.jpeg_quality))


def smallest_side_px(images: ImageSet) -> int:
    """Return the shortest side over all images, from their headers."""
    return min(min(read_size(images.read(i), images.names[i])) for i in range(len(images)))


def set_accuracies(curves: Sequence[SetCurves], condition: ReducedCondition) -> list[SetAccuracy]:
    """Return the accuracies of the sets that were measured under a condition."""
    found = (curve.set_accuracy(condition) for curve in curves)
    return [accuracy for accuracy in found if accuracy is not None]
