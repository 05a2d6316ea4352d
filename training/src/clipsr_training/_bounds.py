"""What the hyperparameters of a recipe may be."""

from __future__ import annotations

import sys
from collections.abc import Sequence

LARGEST = sys.float_info.max
# Names of attributes, with the least and the largest value.
Bounds = Sequence[tuple[Sequence[str], float, float]]


def check_bounds(recipe: object, bounds: Bounds) -> None:
    """Raise ValueError where an attribute is out of its bounds, or no number; None is within all of them."""
    for names, low, high in bounds:
        for name in names:
            value = getattr(recipe, name)
            # NaN is in no order with the bounds.
            if value is not None and not low <= value <= high:
                allowed = f"{low} to {high}" if high < LARGEST else f"a finite number of at least {low}"
                raise ValueError(f"{name} must be {allowed}, got {value}")


def check_draws(draws: int, batch_size: int) -> None:
    """Raise ValueError where a run has no step."""
    if draws < batch_size:
        raise ValueError(f"{draws} draws are fewer than one batch takes ({batch_size})")


def check_part(name: str, part: float) -> None:
    """Raise ValueError where a part is nothing or everything."""
    if not 0 < part < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {part}")
