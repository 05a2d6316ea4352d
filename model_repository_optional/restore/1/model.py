"""Restores pictures with the sampler; the code is in clipsr_serving."""

from __future__ import annotations

from clipsr_serving.models.restore import RestoreModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
