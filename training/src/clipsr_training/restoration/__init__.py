"""Restoration: from a damaged picture to the clean one along a mean-reverting SDE (IR-SDE, DA-CLIP's second half)."""

from __future__ import annotations

from clipsr_training.restoration._checkpoint import RestorerFormatError, load_restorer, save_restorer
from clipsr_training.restoration._restorer import RestoreOptions, Restorer, restore
from clipsr_training.restoration._sampling import SAMPLERS, Sampler, Step, plan_steps
from clipsr_training.restoration._schedule import Schedule
from clipsr_training.restoration._unet import ConditionalUNet, UNetConfig, fold_contexts, pad_to_multiple

__all__ = [
    "SAMPLERS",
    "ConditionalUNet",
    "RestoreOptions",
    "Restorer",
    "RestorerFormatError",
    "Sampler",
    "Schedule",
    "Step",
    "UNetConfig",
    "fold_contexts",
    "load_restorer",
    "pad_to_multiple",
    "plan_steps",
    "restore",
    "save_restorer",
]
