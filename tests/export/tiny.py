"""Sizes of the untrained pair in conftest.py: R, D and L."""

SIZE_PX, EMBED_DIM, CONTEXT = 32, 48, 16
