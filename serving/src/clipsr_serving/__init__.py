"""What runs inside and around Triton for clipsr.

The modules of this package know nothing of Triton, except `models` and `backends._triton`, which Triton loads, and
`launcher`, which starts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipsr_serving.errors import (
    ArtifactError,
    InputError,
    LaunchError,
    ModelCallError,
    ModelLoadError,
    ModelOutputError,
    ServingError,
)
from clipsr_serving.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from clipsr_serving.manifest import Manifest, read_manifest

__all__ = [
    "DEFAULT_LIMITS",
    "ArtifactError",
    "InputError",
    "LaunchError",
    "Limits",
    "Manifest",
    "ModelCallError",
    "ModelLoadError",
    "ModelOutputError",
    "ServingError",
    "read_manifest",
]


def __getattr__(name: str) -> object:
    """Import the manifest's reader when it is asked for: `clipsr-serve status` should not wait for pydantic."""
    if name in ("Manifest", "read_manifest"):
        from clipsr_serving import manifest

        return getattr(manifest, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
