"""Intervals and tests against formulas written out, and against what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from clipsr_training.evaluation import bootstrap_mean, compare_paired, mean_over_seeds, mean_per_class, wilson


@pytest.mark.parametrize(("n_correct", "n"), [(0, 10), (10, 10), (7, 10), (8529, 10_000), (1, 50_000)])
def test_wilson_is_the_formula(n_correct, n):
    z = 1.959963984540054  # the normal distribution's 97.5 % quantile
    p = n_correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    estimate = wilson(n_correct, n)
    assert estimate.value == p
    assert (estimate.low, estimate.high) == pytest.approx((centre - reach, centre + reach), abs=1e-12)


@pytest.mark.parametrize(("n_correct", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_no_proportion_without_images(n_correct, n):
    with pytest.raises(ValueError, match="no proportion"):
        wilson(n_correct, n)


def test_mean_per_class_counts_classes_alike():
    estimate = mean_per_class([90, 0], [100, 1])
    assert estimate.value == pytest.approx(0.45)
    # Only the class of 100 varies: its mean has the standard error 0.03, half of which reaches the mean of two.
    assert (estimate.low, estimate.high) == pytest.approx((0.45 - 1.96 * 0.015, 0.45 + 1.96 * 0.015), abs=0.004)
    with pytest.raises(ValueError, match="class without images"):
        mean_per_class([1, 0], [2, 0])


def test_the_mean_of_one_run_has_the_normal_interval_of_a_large_sample():
    correct = np.arange(10_000) % 5 > 0
    estimate = mean_over_seeds(correct[None])
    reach = 1.96 * math.sqrt(0.8 * 0.2 / 10_000)
    assert estimate.value == pytest.approx(0.8)
    assert (estimate.low, estimate.high) == pytest.approx((0.8 - reach, 0.8 + reach), abs=0.01 * reach)


def test_intervals_over_three_seeds_hold_the_truth_as_often_as_they_say():
    """Accuracies that differ by seed (1.5 points) and image; the truth is the mean over all seeds and images."""
    rng = np.random.default_rng(0)
    n_runs, hits = 2000, 0
    for _ in range(n_runs):
        ease = rng.normal(0, 0.15, size=200)
        rates = np.clip(0.7 + rng.normal(0, 0.015, size=(3, 1)) + ease, 0, 1)
        estimate = mean_over_seeds(rng.random((3, 200)) < rates)
        hits += estimate.low <= 0.7 <= estimate.high
    assert 0.94 <= hits / n_runs <= 0.99


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(0)
    alike = rng.random((3, 2000)) < 0.8
    apart = rng.random((3, 2000)) < np.array([[0.7], [0.8], [0.9]])
    widths = [estimate.high - estimate.low for estimate in map(mean_over_seeds, (alike, apart))]
    assert widths[1] > 5 * widths[0]
    for shape in ((0, 3), (3, 1), (5,)):
        with pytest.raises(ValueError, match="no mean"):
            mean_over_seeds(np.empty(shape))


def test_mcnemar_is_the_binomial_sum():
    both, only_a, only_b, neither = 101, 7, 19, 33
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    test = compare_paired(a, b)
    tail = sum(math.comb(only_a + only_b, k) for k in range(only_a + 1)) / 2 ** (only_a + only_b)
    assert (test.n, test.only_a, test.only_b) == (160, only_a, only_b)
    assert test.p_value == pytest.approx(2 * tail, rel=1e-9)
    assert test.difference.value == pytest.approx((only_a - only_b) / 160)
    assert test.difference.low < test.difference.value < test.difference.high < 0
    assert test.sentence("LIIF", "bicubic").startswith("bicubic is better than LIIF on these 160 images: -7.50 points")


def test_equal_answers_are_no_evidence():
    correct = np.array([True, False] * 50)
    test = compare_paired(correct, correct)
    assert test.p_value == 1
    assert test.difference.value == 0
    assert "can't be told apart" in test.sentence("a", "b")


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="not the same images"):
        compare_paired([True], [True, False])
    with pytest.raises(ValueError, match="not the same images"):
        compare_paired([], [])


def test_the_interval_of_a_difference_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n, true = 150, 0.85 - 0.75
    covered = 0
    for _ in range(300):
        shared = rng.random(n)  # an image that is hard for one is hard for the other
        a, b = (np.where(rng.random(n) < 0.7, shared, rng.random(n)) < p for p in (0.85, 0.75))
        difference = compare_paired(a, b).difference
        covered += difference.low <= true <= difference.high
    # 95 % of 300, less three standard errors.
    assert covered / 300 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)


def test_the_bootstrap_of_a_mean_is_the_normal_interval_of_a_large_sample():
    values = np.random.default_rng(0).random(2000)
    found = bootstrap_mean(values)
    reach = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert found.value == values.mean()
    assert found.low == pytest.approx(found.value - reach, abs=0.1 * reach)
    assert found.high == pytest.approx(found.value + reach, abs=0.1 * reach)
    assert bootstrap_mean(values) == found, "the draws are seeded"
    with pytest.raises(ValueError, match="no mean over images"):
        bootstrap_mean([])
