"""Contrastive losses for batches in which one text belongs to several images."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional


def multi_positive_contrastive_loss(
    image_features: Float[Tensor, "images dim"],
    text_features: Float[Tensor, "texts dim"],
    logit_scale: Float[Tensor, ""],
    is_positive: Bool[Tensor, "images texts"],
) -> Float[Tensor, ""]:
    """Return the mean of the image-to-text and text-to-image cross-entropies with uniform targets over positives.

    With one positive a row and a column this is CLIP's loss. Texts that repeat in a batch are passed once; the mask
    says which images they describe, so no image is pushed away from its own caption. In the image-to-text softmax a
    text counts as often as it describes an image, as if it were repeated: without that, frequent captions would win
    over rare ones at test (Menon et al. 2021, logit adjustment).

    Args:
        image_features: L2-normalized.
        text_features: L2-normalized, without repetition.
        logit_scale: factor on the cosines.
        is_positive: which text describes which image; every row and column has at least one.

    Source: Radford et al. 2021, figure 3; several positives as in Khosla et al. 2020, equation 2.
    """
    # fp32 whatever the autocast state: bf16 logits near 100 are a quarter apart.
    with torch.autocast(image_features.device.type, enabled=False):
        logits = logit_scale.float() * (image_features.float() @ text_features.float().T)
        positive = is_positive.float()
        adjusted = logits + positive.sum(dim=0).log()
        image_to_text = adjusted.log_softmax(dim=1) * (positive / positive.sum(dim=1, keepdim=True))
        text_to_image = logits.log_softmax(dim=0) * (positive / positive.sum(dim=0, keepdim=True))
        return -(image_to_text.sum() / logits.shape[0] + text_to_image.sum() / logits.shape[1]) / 2


def multi_positive_sigmoid_loss(
    image_features: Float[Tensor, "images dim"],
    text_features: Float[Tensor, "texts dim"],
    logit_scale: Float[Tensor, ""],
    logit_bias: Float[Tensor, ""],
    is_positive: Bool[Tensor, "images texts"],
) -> Float[Tensor, ""]:
    """Return the sigmoid loss of SigLIP, every pair a binary question, summed over texts and averaged over images.

    Texts that repeat in a batch are passed once and count as often as they describe an image, as if repeated.

    Args:
        image_features: L2-normalized.
        text_features: L2-normalized, without repetition.
        logit_scale: factor on the cosines.
        logit_bias: added after the factor.
        is_positive: which text describes which image; every row and column has at least one.

    Source: Zhai et al. 2023, equation 1.
    """
    with torch.autocast(image_features.device.type, enabled=False):
        logits = logit_scale.float() * (image_features.float() @ text_features.float().T) + logit_bias.float()
        positive = is_positive.float()
        log_likelihood = functional.logsigmoid(logits * (2 * positive - 1))
        return -(log_likelihood * positive.sum(dim=0)).sum() / len(logits)
