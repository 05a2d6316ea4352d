"""Sizes of the untrained pair in conftest.py: R, D and L."""

from __future__ import annotations

SIZE_PX, EMBED_DIM, CONTEXT = 32, 48, 16
