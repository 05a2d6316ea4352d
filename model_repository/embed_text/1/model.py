"""Embeds texts in prompt templates; the code is in clipsr_serving."""

from __future__ import annotations

from clipsr_serving.models.embed_text import EmbedTextModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
