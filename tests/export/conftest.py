"""Imported before the tests of this folder: open_clip imports torchvision, which needs the package's cure first."""

import clipsr_training

assert clipsr_training.__version__
