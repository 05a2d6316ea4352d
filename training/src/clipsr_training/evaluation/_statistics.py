"""How far a measured accuracy can be trusted: intervals, and tests of two models on the same images.

Pure functions on arrays; the reports of `clipsr-eval` and other comparisons share them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

CONFIDENCE = 0.95
# Monte-Carlo error of a 95 % bound is then below a twentieth of the interval's width.
_N_RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its confidence interval, all three of one unit.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
        confidence: of the interval, in (0, 1).
    """

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def percent(self) -> str:
        """Return "85.3 % (84.6-86.0)" for a fraction."""
        return f"{self.value:.2%} ({100 * self.low:.2f}–{100 * self.high:.2f})"

    def json(self) -> dict[str, float]:
        """Return the fields for a report."""
        return {"value": self.value, "low": self.low, "high": self.high, "confidence": self.confidence}


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Two models, A and B, on the same images.

    Attributes:
        n: images.
        only_a: images that only A gets right.
        only_b: images that only B gets right.
        p_value: McNemar's exact test, two-sided.
        difference: accuracy of A minus accuracy of B, a fraction.
    """

    n: int
    only_a: int
    only_b: int
    p_value: float
    difference: Estimate

    def sentence(self, a: str, b: str) -> str:
        """Say in words what the figures carry, and no more."""
        value, interval = points(self.difference).split(" ", 1)
        figures = (
            f"{value} points {interval}; only {a} right {self.only_a:,}, "
            f"only {b} right {self.only_b:,}, McNemar p = {self.p_value:.2g}"
        )
        if self.p_value >= 1 - self.difference.confidence:
            return f"{a} and {b} can't be told apart on these {self.n:,} images: {figures}."
        better, worse = (a, b) if self.difference.value > 0 else (b, a)
        return f"{better} is better than {worse} on these {self.n:,} images: {figures}."

    def json(self) -> dict[str, object]:
        """Return the fields for a report."""
        return {
            "n": self.n,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "p_value": self.p_value,
            "difference": self.difference.json(),
        }


def points(difference: Estimate) -> str:
    """Return "+1.20 (+0.40 to +2.00)", in points, for a difference of fractions."""
    value, low, high = (100 * bound for bound in (difference.value, difference.low, difference.high))
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def wilson(n_correct: int, n: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a proportion with Wilson's score interval.

    Raises:
        ValueError: `n` is not positive, or `n_correct` not in 0..n.

    Source: Wilson 1927.
    """
    if not (n > 0 and 0 <= n_correct <= n):
        raise ValueError(f"no proportion of {n_correct} in {n}")
    interval = stats.binomtest(int(n_correct), int(n)).proportion_ci(confidence, method="wilson")
    return Estimate(value=n_correct / n, low=float(interval.low), high=float(interval.high), confidence=confidence)


def mean_per_class(n_correct: ArrayLike, n: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Estimate:
    """Estimate the mean of the classes' accuracies, with a percentile bootstrap stratified by class.

    Resampling a class's images with replacement makes its number of right answers binomial, so that is drawn directly.

    Args:
        n_correct: [C] right answers of each class.
        n: [C] images of each class, all positive.
        confidence: of the interval.
        seed: of the draws.

    Raises:
        ValueError: a class has no image.
    """
    counts, right = np.asarray(n), np.asarray(n_correct)
    if counts.size == 0 or (counts < 1).any():
        raise ValueError("a class without images has no accuracy")
    draws = np.random.default_rng(seed).binomial(counts, right / counts, size=(_N_RESAMPLES, len(counts)))
    low, high = _percentiles((draws / counts).mean(axis=1), confidence)
    return Estimate(value=float((right / counts).mean()), low=low, high=high, confidence=confidence)


def bootstrap_mean(values: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Estimate:
    """Estimate the mean of a figure that every image has, with a percentile bootstrap over the images.

    Args:
        values: [N], such as each image's share of right answers over several cells, or a difference of two such.
        confidence: of the interval.
        seed: of the draws.

    Raises:
        ValueError: there is no image.
    """
    figures = np.asarray(values, dtype=np.float64)
    if figures.ndim != 1 or figures.size == 0:
        raise ValueError(f"values of shape {figures.shape} have no mean over images")
    rng = np.random.default_rng(seed)
    means = [figures[rng.integers(0, len(figures), len(figures))].mean() for _ in range(_N_RESAMPLES)]
    low, high = _percentiles(np.array(means), confidence)
    return Estimate(value=float(figures.mean()), low=low, high=high, confidence=confidence)


def mean_over_seeds(values: ArrayLike, *, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a mean that another training seed and other images would both change.

    A t interval on the sum of two variances, that of the seeds' means and that of the images' means, with the degrees
    of freedom of Welch and Satterthwaite: of three seeds that differ it is honestly wide. What a seed does to single
    images is counted in both, which errs on the side of doubt. A single seed shows nothing of what another would
    change: the interval then covers the images alone.

    Args:
        values: [S, N], training seeds by images, at least two images.
        confidence: of the interval.

    Raises:
        ValueError: the array has another number of axes, or fewer images.

    Source: Satterthwaite 1946, "An approximate distribution of estimates of variance components".
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(f"values of shape {np.shape(values)} have no mean over [S, N]")
    parts = [(table.mean(axis=0).var(ddof=1) / table.shape[1], table.shape[1] - 1)]
    if len(table) > 1:
        parts.append((table.mean(axis=1).var(ddof=1) / len(table), len(table) - 1))
    variance = sum(part for part, _ in parts)
    value = float(table.mean())
    if variance == 0:
        return Estimate(value=value, low=value, high=value, confidence=confidence)
    freedom = variance**2 / sum(part**2 / n for part, n in parts)
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom) * math.sqrt(variance))
    return Estimate(value=value, low=value - reach, high=value + reach, confidence=confidence)


def compare_paired(correct_a: ArrayLike, correct_b: ArrayLike, *, confidence: float = CONFIDENCE) -> PairedTest:
    """Test two models on the same images: McNemar's exact test, and an interval of the difference.

    Args:
        correct_a: [N] whether A is right.
        correct_b: [N] whether B is right, images in the same order.
        confidence: of the interval.

    Raises:
        ValueError: the arrays differ in length, or are empty.

    Source: McNemar 1947 (exact form); Newcombe 1998, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", method 10.
    """
    a, b = (np.asarray(values, dtype=bool) for values in (correct_a, correct_b))
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise ValueError(f"not the same images: answers of shape {a.shape} and {b.shape}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_a + only_b
    p_value = float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0
    return PairedTest(
        n=len(a),
        only_a=only_a,
        only_b=only_b,
        p_value=p_value,
        difference=_paired_difference(a, b, only_a, only_b, confidence),
    )


def _paired_difference(a: np.ndarray, b: np.ndarray, only_a: int, only_b: int, confidence: float) -> Estimate:
    one, two = (wilson(int(x.sum()), len(x), confidence=confidence) for x in (a, b))
    both, neither = int((a & b).sum()), int((~a & ~b).sum())
    margins = math.prod((both + only_a, only_b + neither, both + only_b, only_a + neither))
    phi = 0.0
    if margins > 0:
        excess = both * neither - only_a * only_b
        # Newcombe's correction for continuity of a positive correlation.
        phi = (max(excess - len(a) / 2, 0) if excess > 0 else excess) / math.sqrt(margins)
    value = one.value - two.value
    below = _combined(one.value - one.low, two.high - two.value, phi)
    above = _combined(one.high - one.value, two.value - two.low, phi)
    return Estimate(value=value, low=value - below, high=value + above, confidence=confidence)


def _combined(x: float, y: float, phi: float) -> float:
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))


def _percentiles(values: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, (tail, 1 - tail))
    return float(low), float(high)
