"""Ways to run a model under evaluation: PyTorch, ONNX Runtime, a running service."""

from __future__ import annotations

import os

# onnxruntime reports what it runs to its maker; it looks for this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
