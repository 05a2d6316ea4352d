"""The model repository: what is written, and its manifest."""
