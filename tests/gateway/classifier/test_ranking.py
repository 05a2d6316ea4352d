"""The best labels, against a sort of all of them."""

from __future__ import annotations

import numpy as np
import pytest

from clipsr_gateway._backend.protocol import Similarities
from clipsr_gateway._classifier.classifier import rank


def ranked(cosine: np.ndarray, top_k: int) -> list[int]:
    labels = tuple(map(str, range(len(cosine))))
    predictions = rank(Similarities(cosine=cosine, probability=cosine / 2), labels, top_k)
    places = [int(prediction.label) for prediction in predictions]
    assert [prediction.cosine for prediction in predictions] == pytest.approx(cosine[places].tolist(), rel=1e-6)
    assert [prediction.probability for prediction in predictions] == pytest.approx((cosine[places] / 2).tolist())
    return places


@pytest.mark.parametrize("count", [1, 2, 5, 6, 10_000])
@pytest.mark.parametrize("n_values", [3, 1_000_000])
def test_the_best_come_first_and_ties_in_the_order_of_the_labels(count, n_values):
    cosine = np.random.default_rng(count).integers(-n_values, n_values, count).astype(np.float32) / n_values
    everything = sorted(range(count), key=lambda place: (-cosine[place], place))
    for top_k in {1, min(5, count), count}:
        assert ranked(cosine, top_k) == everything[:top_k]


def test_more_than_there_are_is_all_of_them():
    assert ranked(np.array([0.1, 0.3], np.float32), 5) == [1, 0]
