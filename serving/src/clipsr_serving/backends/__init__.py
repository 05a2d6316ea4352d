"""Python-based Triton backends: one repository serves NVIDIA's C++ backends and these.

The modules named after a runtime need nothing of Triton; `triton_backends/<name>/model.py` beside this package is
what Triton loads.
"""

from __future__ import annotations

import os
import sys

from clipsr_serving.backends._batching import run_batched
from clipsr_serving.backends._spec import ModelSpec, TensorSpec, check_signature, read_model_spec

__all__ = [
    "ModelSpec",
    "TensorSpec",
    "check_signature",
    "read_model_spec",
    "run_batched",
]

# openvino reports every import of itself over the Internet by this package; without it, it has a stub.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType, reportCallIssue]
# onnxruntime reports what it runs to its maker; it looks for this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
