"""PyTorch modules as ONNX graphs: traced, reduced, calibrated, checked."""

from __future__ import annotations

import sys

# openvino reports every import of itself over the Internet by this package; without it, it has a stub.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType, reportCallIssue]
