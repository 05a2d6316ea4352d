"""How far a measured accuracy can be trusted: intervals, and tests of two models on the same images.

Pure functions on arrays; the reports of `clipsr-eval` and other comparisons share them.
"""

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
        low, high = 100 * self.difference.low, 100 * self.difference.high
        figures = (
            f"{100 * self.difference.value:+.2f} points ({low:+.2f} to {high:+.2f}); only {a} right {self.only_a:,}, "
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
    """Estimate a mean with a percentile bootstrap over every axis at once.

    With [S, N] (training seeds by images) both seeds and images are drawn with replacement, so that the interval covers
    what another seed and other images would change. Of three seeds it knows little: read it as a lower bound of doubt.

    Args:
        values: [N] or [S, N].
        confidence: of the interval.
        seed: of the draws.

    Raises:
        ValueError: the array is empty or has another number of axes.

    Source: Owen 2007, "The pigeonhole bootstrap".
    """
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"values of shape {np.shape(values)} have no mean over [S, N]")
    rows, columns = table.shape
    rng = np.random.default_rng(seed)
    row_weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=_N_RESAMPLES) / rows
    # In chunks: a weight an image and resample would be 1.6 GB for ImageNet.
    means: list[np.ndarray] = []
    for chunk in np.array_split(row_weights, math.ceil(_N_RESAMPLES * columns / 10_000_000)):
        weights = rng.multinomial(columns, np.full(columns, 1 / columns), size=len(chunk)) / columns
        means.append(((chunk @ table) * weights).sum(axis=1))
    low, high = _percentiles(np.concatenate(means), confidence)
    return Estimate(value=float(table.mean()), low=low, high=high, confidence=confidence)


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
