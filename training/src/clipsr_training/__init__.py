"""Models, data and recipes behind the checkpoints that clipsr serves."""

from __future__ import annotations

from clipsr_training._torchvision_ops import define_missing_schemas

__version__ = "0.1.0"

# Before anything of this package imports lightning or open_clip, which import torchvision.
define_missing_schemas()
