"""Accuracy on degraded images: ten kinds of damage and `clean`, by severity, on each route."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipsr_training.data import ImageSet, decode
from clipsr_training.degradation import CLEAN, DEGRADATIONS, Kind, degrade, generator, strength_of
from clipsr_training.evaluation._backends.base import Backend
from clipsr_training.evaluation._backends.pixels import Route, encode
from clipsr_training.evaluation._cells import Cell, CellKey, Condition, Measurement
from clipsr_training.evaluation._statistics import Estimate, PairedTest, bootstrap_mean, compare_paired, wilson

# The severity of the headline, the middle of the training range.
HEADLINE_SEVERITY = 3
# `clean` has no strength: it is measured once.
_CLEAN_SEVERITY = 1


class DamagedCondition(NamedTuple):
    """A kind of damage, its severity and a route; both are None for images as they are."""

    kind: Kind | None
    severity: int | None
    route: Route

    def log(self) -> Condition:
        """Return what the log says."""
        return dict(self._asdict())


@dataclass(frozen=True, kw_only=True)
class DegradedPlan:
    """What is measured.

    Attributes:
        backend: the model.
        sets: labelled images, damaged at their own size.
        templates: prompts, or one `@name`.
        kinds: of damage.
        severities: 1 to 5, and 6 beyond the training range.
        routes: how damaged images reach the encoder.
        seed: of the draws; an image has the same draw at every severity.
        batch_size: images given to the back end at once.
    """

    backend: Backend
    sets: tuple[ImageSet, ...]
    templates: tuple[str, ...]
    kinds: tuple[Kind, ...]
    severities: tuple[int, ...]
    routes: tuple[Route, ...]
    seed: int
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
            "seed": self.seed,
        }

    def severities_of(self, kind: Kind) -> tuple[int, ...]:
        """Return the severities that a kind is measured at."""
        return (_CLEAN_SEVERITY,) if kind == CLEAN else self.severities

    def conditions(self) -> Iterator[DamagedCondition]:
        """Yield the conditions in order, images as they are first."""
        yield from (DamagedCondition(None, None, route) for route in self.routes)
        for kind in self.kinds:
            for severity in self.severities_of(kind):
                yield from (DamagedCondition(kind, severity, route) for route in self.routes)

    def cells(self) -> list[Cell]:
        """Return what is measured, in order."""
        return [self._cell(images, condition) for images in self.sets for condition in self.conditions()]

    def _cell(self, images: ImageSet, condition: DamagedCondition) -> Cell:
        def prepare(content: bytes, name: str, i: int) -> bytes:
            if condition.kind is None or condition.severity is None:
                return content
            rng = generator(self.seed, i, condition.kind)
            pixels = np.asarray(decode(content, name))
            return encode(Image.fromarray(degrade(pixels, condition.kind, strength_of(condition.severity), rng)))

        return Cell(images=images, condition=condition.log(), route=condition.route, prepare=prepare)

    def results(self, found: Mapping[CellKey, np.ndarray]) -> tuple[SetDamage, ...]:
        """Return what was found of every set."""
        return tuple(
            SetDamage(
                name=images.name,
                n_images=len(images),
                correct={c: found[CellKey(images.name, frozenset(c.log().items()))] for c in self.conditions()},
            )
            for images in self.sets
        )


@dataclass(frozen=True, kw_only=True)
class SetDamage:
    """One set's accuracies.

    Attributes:
        name: of the set.
        n_images: N.
        correct: [N] for every condition.
    """

    name: str
    n_images: int
    correct: Mapping[DamagedCondition, np.ndarray]

    def top1(self, condition: DamagedCondition) -> Estimate:
        """Return top-1 under a condition that was measured."""
        return wilson(int(self.correct[condition].sum()), self.n_images)

    def compare(self, kind: Kind | None, severity: int | None, a: Route, b: Route) -> PairedTest:
        """Test two routes on the same damaged images."""
        return compare_paired(*(self.correct[DamagedCondition(kind, severity, route)] for route in (a, b)))

    def headline_per_image(self, route: Route) -> np.ndarray | None:
        """Return each image's share [N] of right answers over the ten kinds; None where one was not measured."""
        cells = [DamagedCondition(kind, HEADLINE_SEVERITY, route) for kind in DEGRADATIONS]
        if not all(cell in self.correct for cell in cells):
            return None
        return np.mean([self.correct[cell] for cell in cells], axis=0)

    def headline(self, route: Route) -> Estimate | None:
        """Return the mean over the ten kinds at severity 3, with a bootstrap over the images."""
        per_image = self.headline_per_image(route)
        return None if per_image is None else bootstrap_mean(per_image)

    def headline_difference(self, a: Route, b: Route) -> Estimate | None:
        """Return the headline on one route minus that on another, on the same images."""
        one, two = self.headline_per_image(a), self.headline_per_image(b)
        return None if one is None or two is None else bootstrap_mean(one - two)
