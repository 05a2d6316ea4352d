"""What a model offers besides embeddings and upscaling, as ModelInfo describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RestorerInfo:
    """What Client.restore() does.

    Attributes:
        architecture: of the network.
        kinds: of damage, each with other words for it.
        default_steps: where none are asked for.
        max_steps: most that may be asked for.
    """

    architecture: str
    kinds: Mapping[str, tuple[str, ...]]
    default_steps: int
    max_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class NoneOfTheseInfo:
    """The model's own rule for images that show none of the labels, and how good it was on validation images.

    Attributes:
        name_count: names of other things that the labels are compared with.
        threshold: Classification.none_probability from which an image shows none of the labels.
        false_refusals: share of images with one of the labels that are refused.
        auroc: area under the ROC curve, 0 to 1.
        expected_calibration_error: mean difference between probability and truth, 0 to 1.
    """

    name_count: int
    threshold: float
    false_refusals: float
    auroc: float
    expected_calibration_error: float
