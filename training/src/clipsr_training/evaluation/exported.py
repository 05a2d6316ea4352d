"""Exported models in this process, for those who convert them further; needs the extra `onnx`."""

from clipsr_training.evaluation._onnx_backend import OnnxBackend

__all__ = ["OnnxBackend"]
