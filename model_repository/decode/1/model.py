"""Decodes images for the upscaled route; the code is in clipsr_serving."""

from __future__ import annotations

from clipsr_serving.models.decode import DecodeModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
