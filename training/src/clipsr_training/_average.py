"""The mean of several models' weights, a "model soup" (Wortsman et al. 2022, arXiv 2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def average_states(models: Sequence[nn.Module]) -> dict[str, torch.Tensor]:
    """Return the mean state of models of one architecture; counters and masks are those of the first."""
    states = [model.state_dict() for model in models]
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
