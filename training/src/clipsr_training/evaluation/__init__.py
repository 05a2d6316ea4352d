"""How good a CLIP model is: zero-shot, linear probe, at low resolution, image by image.

Statistics and robustness figures are public, so that other comparisons report them alike. The rest is behind
`clipsr-eval`.
"""

from __future__ import annotations

from clipsr_training.evaluation._robustness import (
    SetAccuracy,
    improved_robustness,
    published_weights,
    relative_robustness,
    sar,
    war,
)
from clipsr_training.evaluation._statistics import (
    Estimate,
    PairedTest,
    bootstrap_mean,
    compare_paired,
    mean_over_seeds,
    mean_per_class,
    wilson,
)

__all__ = [
    "Estimate",
    "PairedTest",
    "SetAccuracy",
    "bootstrap_mean",
    "compare_paired",
    "improved_robustness",
    "mean_over_seeds",
    "mean_per_class",
    "published_weights",
    "relative_robustness",
    "sar",
    "war",
    "wilson",
]
