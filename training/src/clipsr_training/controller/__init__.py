"""Controllers: a frozen image tower answers damaged pictures as undamaged ones, and the damage gets a name."""

from __future__ import annotations

from clipsr_training.controller._controller import Controller, Encoding, encode
from clipsr_training.controller._daclip import DACLIP_KINDS, load_daclip
from clipsr_training.controller._files import ControlledClip, digest_tower, load_controller, save_controller

__all__ = [
    "DACLIP_KINDS",
    "ControlledClip",
    "Controller",
    "Encoding",
    "digest_tower",
    "encode",
    "load_controller",
    "load_daclip",
    "save_controller",
]
