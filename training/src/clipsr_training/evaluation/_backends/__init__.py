"""Ways to run a model under evaluation: PyTorch, ONNX Runtime, a running service."""
