"""Cosines and probabilities from embeddings; plain numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.manifest import NoneOfThese, Scoring

__all__ = ["compute_cosine", "compute_none_probability", "compute_probability", "l2_normalize"]

Float32 = NDArray[np.float32]

# Far below any embedding's norm; keeps a zero vector (a broken encoder) finite instead of NaN.
_MIN_NORM = 1e-12


def l2_normalize(vectors: Float32) -> Float32:
    """Scale the last axis to length 1; a zero vector stays zero."""
    norm = np.sqrt(np.sum(np.square(vectors), axis=-1, keepdims=True))
    return vectors / np.maximum(norm, np.float32(_MIN_NORM))


def compute_cosine(image_embedding: Float32, text_embedding: Float32) -> Float32:
    """Cosine of every image with every text.

    Args:
        image_embedding: FP32 [images, D], L2-normalized.
        text_embedding: FP32 [texts, D], L2-normalized.

    Returns:
        FP32 [images, texts] in [-1, 1]; rounding beyond the ends is clipped.
    """
    return np.clip(image_embedding @ text_embedding.T, -1.0, 1.0)


def compute_probability(cosine: Float32, scoring: Scoring) -> Float32:
    """Softmax over the last axis, or a sigmoid of each element, of scale x cosine + bias.

    Args:
        cosine: FP32 [..., labels].
        scoring: the checkpoint's function, scale and bias.

    Returns:
        FP32, the shape of `cosine`, in [0, 1]; softmax rows sum to 1.
    """
    logits = np.float32(scoring.logit_scale) * cosine + np.float32(scoring.logit_bias)
    if scoring.function == "sigmoid":
        # The exponent is never positive, so that it cannot overflow.
        decay: Float32 = np.exp(-np.abs(logits))
        numerator: Float32 = np.where(logits >= 0, np.ones_like(decay), decay)
        return numerator / (np.float32(1) + decay)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def compute_none_probability(
    label_cosine: Float32,
    bank_cosine: Float32,
    is_other: NDArray[np.bool_],
    scoring: Scoring,
    calibration: NoneOfThese,
) -> Float32:
    """Probability that an image shows none of the labels: how much better other things fit than the labels do.

    The odds are those of the mean of exp(logit_scale x cosine) over the other names to the same over the labels, at a
    temperature and with a bias that make them true on validation images.

    Args:
        label_cosine: FP32 [images, K].
        bank_cosine: FP32 [images, B], with names.
        is_other: BOOL [B], which of them name other things.
        scoring: the checkpoint's scale.
        calibration: temperature and bias.

    Returns:
        FP32 [images], in [0, 1]; NaN where there are no other names.
    """
    if not is_other.any():
        return np.full(len(label_cosine), np.nan, dtype=np.float32)
    scale = np.float32(scoring.logit_scale)
    labels, others = _log_mean_exp(scale * label_cosine), _log_mean_exp(scale * bank_cosine[:, is_other])
    logits = (labels - others) / np.float32(calibration.temperature) + np.float32(calibration.bias)
    return (1 / (1 + np.exp(np.clip(logits, -80, 80)))).astype(np.float32)  # whose exponential float32 can hold


def _log_mean_exp(values: Float32) -> Float32:
    greatest = values.max(axis=1, keepdims=True)
    return greatest[:, 0] + np.log(np.exp(values - greatest).mean(axis=1))
