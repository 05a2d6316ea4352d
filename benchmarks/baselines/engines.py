"""Names of the bare engines, and of the model; `benchmarks.baselines.bare` runs them and needs PyTorch for it."""

from __future__ import annotations

__all__ = ["MODEL", "ONNX_CUDA", "OPENVINO_INT8", "TORCH", "TORCH_CUDA", "float_engine"]

MODEL = "ViT-B-32"
TORCH = "torch fp32"
OPENVINO_INT8 = "openvino int8"
TORCH_CUDA, ONNX_CUDA = "torch fp16 cuda", "onnxruntime cuda"


def float_engine() -> str:
    """Return the engine of the profile `cpu-bf16` on this processor; openvino would emulate bf16, slower than fp32."""
    import openvino

    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "openvino bf16" if has_bf16 else "openvino fp32"
