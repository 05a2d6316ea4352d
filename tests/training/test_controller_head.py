"""The linear verdict that says which pictures need a controller."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clipsr_training.controller._head import _RIDGE, CLEAN_KEPT, Judged, choose_threshold, fit_logistic, train_head


def judged(n_clean: int, n_damaged: int, *, shift: float = 0.5, seed: int = 0, dim: int = 16) -> Judged:
    """Random unit vectors, those of damaged pictures moved along the first axis."""
    rng = np.random.default_rng(seed)
    is_damaged = np.arange(n_clean + n_damaged) >= n_clean
    vectors = rng.standard_normal((len(is_damaged), dim)).astype(np.float32) / np.sqrt(dim)
    vectors[is_damaged, 0] += shift
    return Judged(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), is_damaged)


def test_the_regression_is_that_of_scikit_learn():
    seen = judged(150, 400)
    weight, bias = fit_logistic(seen)
    # Its loss is a sum, ours a mean in which both sorts have half the weight, and for embeddings scaled by 4.
    reference = LogisticRegression(
        C=1 / (_RIDGE * len(seen.is_damaged)), class_weight="balanced", tol=1e-9, max_iter=10_000
    )
    reference.fit(seen.embeddings * 4, seen.is_damaged)
    assert weight / 4 == pytest.approx(reference.coef_[0], abs=2e-3)
    assert bias == pytest.approx(reference.intercept_[0], abs=2e-3)


def test_nearly_all_clean_pictures_stay_plain_whatever_the_others_look_like():
    for shift in (0.0, 0.3, 2.0):
        head, figures = train_head(judged(500, 300, shift=shift), judged(200, 200, shift=shift, seed=1))
        assert figures.clean_kept >= CLEAN_KEPT
        other = judged(2000, 2000, shift=shift, seed=2)
        found = head.is_damaged(other.embeddings)
        assert (~found[~other.is_damaged]).mean() > CLEAN_KEPT - 0.03
        assert found[other.is_damaged].mean() == pytest.approx(figures.damaged_found, abs=0.1)
    assert figures.damaged_found > 0.95  # by the greatest shift


@pytest.mark.parametrize("n", [1, 49, 50, 51, 1000])
def test_the_threshold_is_the_least_that_keeps_enough(n):
    logits = np.random.default_rng(n).permutation(n).astype(float)
    threshold = choose_threshold(logits, 0.98)
    assert (logits <= threshold).mean() >= 0.98
    assert (logits < threshold).mean() < 0.98


def test_pictures_that_are_nearly_alike_are_kept_apart_as_chosen():
    """Weights are large then, and roundings with them."""
    seen, other = (judged(60, 60, seed=seed) for seed in (0, 1))
    alike = [
        Judged((np.float32(1) + each.embeddings * np.float32(1e-4)) / 4, each.is_damaged) for each in (seen, other)
    ]
    _, figures = train_head(*alike)
    assert figures.clean_kept >= CLEAN_KEPT


@pytest.mark.parametrize("counts", [(0, 5), (5, 0)])
def test_without_one_of_the_two_sorts_there_is_no_head(counts):
    assert train_head(judged(*counts), judged(5, 5)) is None
    assert train_head(judged(5, 5), judged(*counts)) is None
