"""Restoration: from a damaged picture to the clean one along a mean-reverting SDE (IR-SDE, DA-CLIP's second half)."""

from __future__ import annotations

from clipsr_training.restoration._sampling import SAMPLERS, Sampler, Step, plan_steps
from clipsr_training.restoration._schedule import Schedule

__all__ = ["SAMPLERS", "Sampler", "Schedule", "Step", "plan_steps"]
