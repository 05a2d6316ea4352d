"""A projection from a classifier's features to a space of texts, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

# Parts of the mean eigenvalue of the texts' Gram matrix.
_PENALTIES = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0)


def fit_projection(rows: Tensor, texts: Tensor) -> Tensor:
    """Return P such that a text's dot product with P f follows the classifier's logit of its class.

    Ridge regression from texts to rows, whose penalty is the one by which rows left out are predicted best.

    Args:
        rows: [C, F] of the classifier's last layer; a column of biases goes with features that are 1.
        texts: [C, D] unit embeddings of the classes' names.

    Returns:
        [D, F] of the same type as `rows`.
    """
    # What all classes share changes no ranking.
    x, y = ((part - part.mean(dim=0)).double() for part in (texts, rows))
    gram = x.T @ x
    identity = torch.eye(len(gram), dtype=gram.dtype)
    best: tuple[float, Tensor] | None = None
    for penalty in _PENALTIES:
        solver = torch.linalg.solve(gram + penalty * gram.diagonal().mean() * identity, x.T)
        projection = solver @ y
        # The error of a row left out follows from the fit with it (Allen's PRESS).
        leverage = (x * solver.T).sum(dim=1, keepdim=True)
        error = float((((y - x @ projection) / (1 - leverage)) ** 2).sum())
        if best is None or error < best[0]:
            best = error, projection
    assert best is not None, "there are penalties to choose from"
    return best[1].to(rows.dtype)
