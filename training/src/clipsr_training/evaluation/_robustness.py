"""Robustness against low resolution over several data sets, after LR0.FM (arXiv 2502.03950)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

# LR0.FM's improved relative robustness: how steeply trust falls as the reference accuracy nears chance.
_STEEPNESS = 200.0


@dataclass(frozen=True, kw_only=True)
class SetAccuracy:
    """One data set at one resolution.

    Attributes:
        reduced: top-1 at the reduced resolution, a fraction.
        reference: top-1 at full resolution, a fraction.
        n_classes: C.
        weight: of the set in WAR, positive.
    """

    reduced: float
    reference: float
    n_classes: int
    weight: float = 1.0


def relative_robustness(reduced: float, reference: float) -> float:
    """Return R = A_n / A_reference; 0 where the reference is 0."""
    return reduced / reference if reference > 0 else 0.0


def improved_robustness(accuracy: SetAccuracy) -> float:
    """Return R' = R (1 - exp(-200 (A_reference - 1/C)^2)): R, brought to 0 where the reference is at chance."""
    above_chance = accuracy.reference - 1 / accuracy.n_classes
    trust = 1 - np.exp(-_STEEPNESS * above_chance**2)
    return float(relative_robustness(accuracy.reduced, accuracy.reference) * trust)


def sar(accuracies: Sequence[SetAccuracy]) -> float:
    """Return SAR, the simple mean of R over the data sets."""
    return float(np.mean([relative_robustness(a.reduced, a.reference) for a in accuracies]))


def war(accuracies: Sequence[SetAccuracy]) -> float:
    """Return WAR, the weighted mean of R' over the data sets."""
    weights = [a.weight for a in accuracies]
    return float(np.average([improved_robustness(a) for a in accuracies], weights=weights))


def published_weights() -> dict[str, float]:
    """Return LR0.FM's weights of its 15 data sets, by name."""
    text = files("clipsr_training.evaluation").joinpath("lr0fm_weights.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["weights"])
