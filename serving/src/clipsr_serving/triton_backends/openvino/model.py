"""The `openvino` backend of the embedded Triton; see clipsr_serving.backends."""

from __future__ import annotations

from clipsr_serving.backends._triton import SessionModel
from clipsr_serving.backends.openvino import OpenVinoSession


class TritonPythonModel(SessionModel):
    """Serves every model whose config says `backend: "openvino"`."""

    open_session = OpenVinoSession
