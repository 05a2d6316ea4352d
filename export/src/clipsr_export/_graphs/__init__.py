"""PyTorch modules as ONNX graphs: traced, reduced, calibrated, checked."""

from __future__ import annotations

import os
import sys

# openvino reports every import of itself over the Internet by this package; without it, it has a stub.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType, reportCallIssue]
# onnxruntime reports what it runs to its maker; it looks for this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
