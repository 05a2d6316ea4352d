"""Python-based Triton backends: one repository serves NVIDIA's C++ backends and these.

The modules named after a runtime need nothing of Triton; `triton_backends/<name>/model.py` beside this package is
what Triton loads, and `open_model` what loads a model where there is no Triton.
"""

from __future__ import annotations

import os
import sys

from clipsr_serving.backends._batching import run_batched
from clipsr_serving.backends._model import Model, open_model, read_model_args
from clipsr_serving.backends._pbtxt import read_config
from clipsr_serving.backends._spec import (
    ModelSpec,
    TensorSpec,
    check_signature,
    read_integer_parameter,
    read_model_spec,
    read_parameter,
)

__all__ = [
    "Model",
    "ModelSpec",
    "TensorSpec",
    "check_signature",
    "open_model",
    "read_config",
    "read_integer_parameter",
    "read_model_args",
    "read_model_spec",
    "read_parameter",
    "run_batched",
]

# openvino reports every import of itself over the Internet by this package; without it, it has a stub.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType, reportCallIssue]
# onnxruntime reports what it runs to its maker; it looks for this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
