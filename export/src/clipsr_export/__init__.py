"""Checkpoints to ONNX graphs, tokenizer, text banks and manifest: a model repository ready to serve."""

from clipsr_export._errors import ExportError, ParityError, TemplateError
from clipsr_export._repository import ExportPlan, export_repository

__version__ = "0.1.0"

__all__ = ["ExportError", "ExportPlan", "ParityError", "TemplateError", "export_repository"]
