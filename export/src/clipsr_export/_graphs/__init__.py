"""PyTorch modules as ONNX graphs: traced, reduced, calibrated, checked."""
