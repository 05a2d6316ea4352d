"""What runs inside and around Triton for clipsr.

The modules of this package know nothing of Triton, except `models` and `backends._triton`, which Triton loads, and
`launcher`, which starts it.
"""

from __future__ import annotations

from clipsr_serving.errors import (
    ArtifactError,
    InputError,
    LaunchError,
    ModelLoadError,
    ServingError,
    TextEncoderError,
)
from clipsr_serving.limits import DEFAULT_LIMITS, Limits
from clipsr_serving.manifest import Manifest, read_manifest

__all__ = [
    "DEFAULT_LIMITS",
    "ArtifactError",
    "InputError",
    "LaunchError",
    "Limits",
    "Manifest",
    "ModelLoadError",
    "ServingError",
    "TextEncoderError",
    "read_manifest",
]
