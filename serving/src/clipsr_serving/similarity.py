"""Cosines and probabilities from embeddings; plain numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.manifest import Scoring

__all__ = ["compute_cosine", "compute_probability", "l2_normalize"]

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
