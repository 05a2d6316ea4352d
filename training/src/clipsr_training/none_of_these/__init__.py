"""A probability that an image shows none of the labels: a bank of names, and its calibration."""

from __future__ import annotations

from clipsr_training.none_of_these._calibration import CALIBRATION_NAME, Calibration, read_calibration
from clipsr_training.none_of_these._images import calibrate_checkpoint

__all__ = ["CALIBRATION_NAME", "Calibration", "calibrate_checkpoint", "read_calibration"]
