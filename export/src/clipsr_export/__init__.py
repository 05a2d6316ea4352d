"""Checkpoints to ONNX graphs, tokenizer, text banks and manifest: a model repository ready to serve."""

from __future__ import annotations

from clipsr_export._errors import ExportError, ParityError, TemplateError, TokenizerError
from clipsr_export._repository.export import ExportPlan, export_repository
from clipsr_export._upscaler import UpscalerPlan, export_upscaler

__version__ = "0.1.0"

__all__ = [
    "ExportError",
    "ExportPlan",
    "ParityError",
    "TemplateError",
    "TokenizerError",
    "UpscalerPlan",
    "export_repository",
    "export_upscaler",
]
