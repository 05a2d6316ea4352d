"""Embeds texts in prompt templates; the code is in clipsr_serving."""

from clipsr_serving.models.embed_text import EmbedTextModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
