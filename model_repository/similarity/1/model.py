"""Compares image embeddings with cached text embeddings; the code is in clipsr_serving."""

from __future__ import annotations

from clipsr_serving.models.similarity import SimilarityModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
