"""The `onnxruntime` backend of the embedded Triton; see clipsr_serving.backends."""

from __future__ import annotations

from clipsr_serving.backends._triton import SessionModel
from clipsr_serving.backends.onnxruntime import OnnxRuntimeSession


class TritonPythonModel(SessionModel):
    """Serves every model whose config says `backend: "onnxruntime"`."""

    open_session = OnnxRuntimeSession
