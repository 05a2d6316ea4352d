"""Accuracy on degraded images: ten kinds of damage and `clean`, by severity, on each route."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

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


Encoder = Literal["plain", "controller"]


class Way(NamedTuple):
    """How an image becomes an embedding: a route to the encoder, and the encoder alone or with its controller."""

    route: Route
    encoder: Encoder = "plain"

    @property
    def label(self) -> str:
        """Name for reports."""
        return self.route if self.encoder == "plain" else f"{self.route}, {self.encoder}"


class DamagedCondition(NamedTuple):
    """A kind of damage and its severity, both None for images as they are, and how they become embeddings."""

    kind: Kind | None
    severity: int | None
    way: Way

    def log(self) -> Condition:
        """Return what the log says; the plain encoder goes without saying."""
        named: Condition = {} if self.way.encoder == "plain" else {"encoder": self.way.encoder}
        return {"kind": self.kind, "severity": self.severity, "route": self.way.route, **named}


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
        controlled: the model with its controller; None to measure it alone.
    """

    backend: Backend
    sets: tuple[ImageSet, ...]
    templates: tuple[str, ...]
    kinds: tuple[Kind, ...]
    severities: tuple[int, ...]
    routes: tuple[Route, ...]
    seed: int
    batch_size: int
    controlled: Backend | None = None

    @property
    def ways(self) -> tuple[Way, ...]:
        """How damaged images are embedded, the plain encoder first."""
        encoders: tuple[Encoder, ...] = ("plain",) if self.controlled is None else ("plain", "controller")
        return tuple(Way(route, encoder) for encoder in encoders for route in self.routes)

    @property
    def pairs(self) -> tuple[tuple[Way, Way], ...]:
        """What is compared on the same images: the controller with the encoder alone, else the two routes."""
        if self.controlled is not None:
            return tuple((Way(route, "controller"), Way(route)) for route in self.routes)
        return ((Way("upscaled"), Way("native")),) if {"upscaled", "native"} <= set(self.routes) else ()

    def measurement(self) -> Measurement:
        """Return what all cells share."""
        return Measurement(
            backend=self.backend, templates=self.templates, batch_size=self.batch_size, settings=self.settings()
        )

    def settings(self) -> dict[str, object]:
        """Return everything that a cell's figures depend on."""
        return {
            "model": self.backend.describe(),
            **({} if self.controlled is None else {"controlled": self.controlled.describe()}),
            "data": {images.name: images.digest for images in self.sets},
            "templates": self.templates,
            "seed": self.seed,
        }

    def severities_of(self, kind: Kind) -> tuple[int, ...]:
        """Return the severities that a kind is measured at."""
        return (_CLEAN_SEVERITY,) if kind == CLEAN else self.severities

    def conditions(self) -> Iterator[DamagedCondition]:
        """Yield the conditions in order, images as they are first."""
        yield from (DamagedCondition(None, None, way) for way in self.ways)
        for kind in self.kinds:
            for severity in self.severities_of(kind):
                yield from (DamagedCondition(kind, severity, way) for way in self.ways)

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

        return Cell(
            images=images,
            condition=condition.log(),
            route=condition.way.route,
            prepare=prepare,
            backend=self.controlled if condition.way.encoder == "controller" else self.backend,
        )

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

    def compare(self, kind: Kind | None, severity: int | None, a: Way, b: Way) -> PairedTest:
        """Test two ways on the same damaged images."""
        return compare_paired(*(self.correct[DamagedCondition(kind, severity, way)] for way in (a, b)))

    def headline_per_image(self, way: Way) -> np.ndarray | None:
        """Return each image's share [N] of right answers over the ten kinds; None where one was not measured."""
        cells = [DamagedCondition(kind, HEADLINE_SEVERITY, way) for kind in DEGRADATIONS]
        if not all(cell in self.correct for cell in cells):
            return None
        return np.mean([self.correct[cell] for cell in cells], axis=0)

    def headline(self, way: Way) -> Estimate | None:
        """Return the mean over the ten kinds at severity 3, with a bootstrap over the images."""
        per_image = self.headline_per_image(way)
        return None if per_image is None else bootstrap_mean(per_image)

    def headline_difference(self, a: Way, b: Way) -> Estimate | None:
        """Return the headline in one way minus that in another, on the same images."""
        one, two = self.headline_per_image(a), self.headline_per_image(b)
        return None if one is None or two is None else bootstrap_mean(one - two)
