"""Exported models in this process, for those who convert them further; needs the extra `onnx`."""

from __future__ import annotations

from clipsr_training.evaluation._backends.onnx import OnnxBackend

__all__ = ["OnnxBackend"]
