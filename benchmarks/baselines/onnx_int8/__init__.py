"""The image tower in ONNX Runtime, int8, behind FastAPI, as a user would write it."""
