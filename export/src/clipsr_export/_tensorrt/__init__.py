"""TensorRT engines of the exported graphs."""
