"""What calibration measured is what the service computes: the same names left out, the same odds."""

from __future__ import annotations

import numpy as np

from clipsr_serving.manifest import NoneOfThese, Scoring
from clipsr_serving.similarity import compute_none_probability
from clipsr_serving.text.none_bank import NoneBank
from clipsr_training.none_of_these._odds import MAX_LABEL_COSINE, compare


def test_training_and_serving_compute_one_probability():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(90, 24))
    rows[60:66] = rows[:6] + 0.3 * rng.normal(size=(6, 24))  # names near labels
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    labels = ["cat", "pickup truck", "Sea", "dog", "oak tree", "bus", *(f"thing {i}" for i in range(14))]
    names = ["truck", "house cat", "seal", "sea", "x"] + [f"name {i}" for i in range(25)]
    classes, images, bank = rows[:20], rows[20:60], rows[60:90]
    for chosen in (np.array([0, 1, 2]), np.arange(20), np.array([5])):
        rule = NoneOfThese(file="", temperature=1.3, bias=-0.2, threshold=0.5, max_label_cosine=MAX_LABEL_COSINE)
        served = NoneBank(names=tuple(names), text_embedding=bank, calibration=rule)
        is_other = served.find_others([labels[i] for i in chosen], classes[chosen])
        scoring = Scoring(function="softmax", logit_scale=20.0, logit_bias=0.0)
        here = compute_none_probability(images @ classes[chosen].T, images @ bank.T, is_other, scoring, rule)
        odds = compare(images, classes, bank, labels, names).log_odds(chosen, 20.0)
        np.testing.assert_allclose(here, 1 / (1 + np.exp(odds / 1.3 - 0.2)), atol=1e-5)
