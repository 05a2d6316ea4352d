"""Decodes images for the native route; the code is in clipsr_serving."""

from __future__ import annotations

from clipsr_serving.models.decode import DecodeNativeModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
