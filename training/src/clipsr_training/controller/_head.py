"""Which pictures need the controller at all: a linear verdict on the plain embedding, which is there anyway."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

# Part of the undamaged held-out pictures that stay with the plain encoder: what robust answers cost falls on others.
CLEAN_KEPT = 0.98
# Weight decay, for embeddings scaled such that their numbers are about 1, and a mean loss over thousands of pictures.
_RIDGE = 1e-3
# By so much an embedding of the exported graph may differ from PyTorch's, in length.
_ROUNDING = 1e-5


class Judged(NamedTuple):
    """Pictures of which it is known whether they are damaged.

    Attributes:
        embeddings: [N, D] float32, plain, of unit length.
        is_damaged: [N].
    """

    embeddings: NDArray[np.float32]
    is_damaged: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class DamageHead:
    """Judges an embedding e of unit length: the picture looks damaged where `weight @ e + bias` is positive.

    Attributes:
        weight: [D] float32.
        bias: to be added.
    """

    weight: NDArray[np.float32]
    bias: float

    def is_damaged(self, embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Judge embeddings [N, D]."""
        return (embeddings @ self.weight).astype(np.float64) + self.bias > 0


class HeadFigures(NamedTuple):
    """What a head does with held-out pictures.

    Attributes:
        clean_kept: share of the undamaged ones that stay with the plain encoder.
        damaged_found: share of the damaged ones that go on to the robust one.
    """

    clean_kept: float
    damaged_found: float


def train_head(train: Judged, held_out: Judged) -> tuple[DamageHead, HeadFigures] | None:
    """Fit a head on some pictures, and choose its threshold on others.

    Returns:
        None where damaged or undamaged ones are missing.
    """
    if not all(0 < seen.is_damaged.sum() < len(seen.is_damaged) for seen in (train, held_out)):
        return None
    weight = fit_logistic(train)[0].astype(np.float32)
    is_damaged = held_out.is_damaged
    threshold = choose_threshold((held_out.embeddings @ weight)[~is_damaged], CLEAN_KEPT)
    head = DamageHead(weight=weight, bias=-threshold - _ROUNDING * float(np.linalg.norm(weight)))
    found = head.is_damaged(held_out.embeddings)
    return head, HeadFigures(
        clean_kept=float((~found[~is_damaged]).mean()), damaged_found=float(found[is_damaged].mean())
    )


def fit_logistic(seen: Judged) -> tuple[NDArray[np.float64], float]:
    """Return weight [D] and bias of a logistic regression in which both sorts of pictures weigh equally."""
    features, labels = seen
    scale = math.sqrt(features.shape[1])
    x = np.column_stack([features.astype(np.float64) * scale, np.ones(len(features))])
    y = np.where(labels, 1.0, -1.0)
    shares = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())

    def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = y * (x @ w)
        decayed = np.append(w[:-1], 0.0)
        slopes = -shares * y / (1 + np.exp(np.minimum(margins, 500)))
        return float(
            shares @ np.logaddexp(0, -margins) + _RIDGE / 2 * decayed @ decayed
        ), x.T @ slopes + _RIDGE * decayed

    found = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return found[:-1] * scale, float(found[-1])


def choose_threshold(clean_logits: NDArray[np.floating], kept: float) -> float:
    """Return the least threshold that at least this share of the logits does not exceed."""
    ordered = np.sort(clean_logits)
    return float(ordered[math.ceil(kept * len(ordered)) - 1])
