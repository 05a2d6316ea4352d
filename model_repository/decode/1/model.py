"""Decodes images for the upscaled route; the code is in clipsr_serving."""

from clipsr_serving.models.decode import DecodeModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
