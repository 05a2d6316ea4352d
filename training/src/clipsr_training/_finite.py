"""Weights that are numbers: what a diverged training leaves is never loaded, written or exported."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Names to show of a list that may have hundreds.
_SHOWN = 3


def describe_not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return a sentence that counts and names the tensors with values that are not finite; None if there is none."""
    names = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if not names:
        return None
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    return f"{len(names)} of {len(state)} tensors hold numbers that are not finite ({shown})"
