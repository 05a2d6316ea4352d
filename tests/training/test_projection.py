"""The closed form between a classifier's rows and texts."""

from __future__ import annotations

import torch

from clipsr_training.clip._projection import fit_projection


def test_texts_that_determine_rows_give_the_classifiers_logits():
    torch.manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(200, 16), dim=1)
    rows = texts @ torch.randn(16, 24) + torch.randn(24)  # what all share changes no ranking
    projection = fit_projection(rows, texts)
    features = torch.randn(50, 24)
    ours, theirs = features @ projection.T @ texts.T, features @ rows.T
    centred = [logits - logits.mean(dim=1, keepdim=True) for logits in (ours, theirs)]
    torch.testing.assert_close(*centred, atol=0.05, rtol=0.01)


def test_noise_in_the_rows_is_not_fitted():
    """Rows that texts say nothing of are predicted by less than the least squares would."""
    torch.manual_seed(0)
    texts, rows = torch.nn.functional.normalize(torch.randn(40, 30), dim=1), torch.randn(40, 8)
    x, y = texts - texts.mean(dim=0), rows - rows.mean(dim=0)
    assert fit_projection(rows, texts).norm() < 0.2 * torch.linalg.lstsq(x, y).solution.norm()
