"""Calibration on validation images: many draws of labels, of which an image shows one or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from clipsr_training.none_of_these._calibration import Calibration
from clipsr_training.none_of_these._odds import MAX_LABEL_COSINE, Cosines

# Labels of a draw, as callers ask for few or many.
LABEL_COUNTS = (2, 5, 10, 20, 50)
_N_DRAWS = 20
_FALSE_REFUSALS = 0.05
_N_BINS = 15


class Draw(NamedTuple):
    """One choice of labels.

    Attributes:
        log_odds: [N] of the labels against the names.
        shows: [N] whether an image shows one of the labels.
    """

    log_odds: np.ndarray
    shows: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """[N] as if half of the images showed one of the labels; they sum to 1."""
        share = self.shows.mean()
        return np.where(self.shows, 0.5 / share, 0.5 / (1 - share)) / len(self.shows)


class Quality(NamedTuple):
    """How good probabilities are, half of the images showing one of the labels.

    Attributes:
        auroc: area under the ROC curve.
        calibration_error: expected, in bins of equal width.
        false_refusals: share of the images with one of the labels that are refused.
        caught: share of the others that are.
    """

    auroc: float
    calibration_error: float
    false_refusals: float
    caught: float


def draw_labels(
    cosines: Cosines, targets: np.ndarray, logit_scale: float, *, count: int, n_draws: int = _N_DRAWS, seed: int = 0
) -> Iterator[Draw]:
    """Yield draws of labels among the classes that have images, such that some images show none.

    Args:
        cosines: of N images with C classes and a bank of names.
        targets: [N] class of each image.
        logit_scale: of the model.
        count: labels of a draw.
        n_draws: how many.
        seed: of the draws.
    """
    rng = np.random.default_rng((seed, count))
    classes = np.unique(targets)
    for _ in range(n_draws):
        chosen = rng.choice(classes, count, replace=False)
        yield Draw(cosines.log_odds(chosen, logit_scale), np.isin(targets, chosen))


def calibrate(
    cosines: Cosines, targets: np.ndarray, logit_scale: float, *, names: Sequence[str], data: str, seed: int = 0
) -> Calibration:
    """Fit temperature and bias by logistic regression, and set the threshold at 5 % false refusals.

    Args:
        cosines: of N validation images with C classes and B names.
        targets: [N] class of each image.
        logit_scale: of the model.
        names: B names.
        data: what to call the images.
        seed: of the draws.

    Raises:
        ValueError: there are too few classes, or the names tell nothing.
    """
    n_classes = len(np.unique(targets))
    counts = [count for count in LABEL_COUNTS if count <= n_classes // 2]
    if not counts:
        raise ValueError(f"{n_classes} classes are too few to leave some out; calibrate on images of 4 classes or more")
    draws = [draw for n in counts for draw in draw_labels(cosines, targets, logit_scale, count=n, seed=seed)]
    joined = Draw(*(np.concatenate(parts) for parts in zip(*draws, strict=True)))
    weights = np.concatenate([draw.weights for draw in draws])
    # Next to no penalty: it would pull the temperature towards infinity.
    fitted = LogisticRegression(C=1e6).fit(joined.log_odds[:, None], joined.shows, sample_weight=weights * len(weights))
    slope, bias = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if not slope > 0:
        raise ValueError("images fit the names as well as the labels that they show, so the names tell nothing")
    none = expit(-(joined.log_odds * slope + bias))
    threshold = _weighted_quantile(none[joined.shows], weights[joined.shows], 1 - _FALSE_REFUSALS)
    found = [measure(draw, temperature=1 / slope, bias=bias, threshold=threshold) for draw in draws]
    mean = Quality(*np.mean(found, axis=0).tolist())
    return Calibration(
        names=tuple(names),
        max_label_cosine=MAX_LABEL_COSINE,
        temperature=1 / slope,
        bias=bias,
        threshold=threshold,
        false_refusals=mean.false_refusals,
        auroc=mean.auroc,
        expected_calibration_error=mean.calibration_error,
        data=data,
    )


def measure(draw: Draw, *, temperature: float, bias: float, threshold: float) -> Quality:
    """Measure the probabilities that a temperature and a bias give."""
    none = expit(-(draw.log_odds / temperature + bias))
    return Quality(
        auroc=float(roc_auc_score(draw.shows, draw.log_odds)),
        calibration_error=expected_calibration_error(none, ~draw.shows, draw.weights),
        false_refusals=float((none[draw.shows] >= threshold).mean()),
        caught=float((none[~draw.shows] >= threshold).mean()),
    )


def expected_calibration_error(probability: np.ndarray, is_true: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean distance between probability and truth in bins of equal width (Guo et al. 2017, section 2)."""
    bins = np.minimum((probability * _N_BINS).astype(int), _N_BINS - 1)
    gap = np.bincount(bins, weights * (probability - is_true), minlength=_N_BINS)
    return float(np.abs(gap).sum() / weights.sum())


def _weighted_quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(reached, share)), len(values) - 1)])
