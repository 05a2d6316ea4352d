"""Errors of the export.

ExportError
├── ParityError      a graph differs from PyTorch by more than its tolerance
├── TemplateError    the model repository to export into is not one
├── TokenizerError   the checkpoint's tokenizer can't be written as one file
├── RepositoryError  the repository whose graphs are to be converted holds none
├── AgreementError   a converted graph embeds images too differently from the fp32 one
└── PlanError        this machine can't build TensorRT plans, or TensorRT refused a graph
"""

from __future__ import annotations


class ExportError(Exception):
    """An export that was not carried out; nothing was changed in the output."""


class ParityError(ExportError):
    """A graph's results differ from PyTorch's.

    Attributes:
        graph: name of the graph.
        measured: the largest difference found.
        tolerance: the largest difference allowed.
    """

    def __init__(self, graph: str, quantity: str, measured: float, tolerance: float) -> None:
        super().__init__(f"{graph}: {quantity} differs from PyTorch by {measured:.3g}, allowed is {tolerance:.3g}")
        self.graph = graph
        self.measured = measured
        self.tolerance = tolerance


class TemplateError(ExportError):
    """The model repository template is missing or has a line that can't be filled in."""


class TokenizerError(ExportError):
    """The checkpoint's tokenizer does something that a `tokenizers` file can't express, or the file differs from it."""


class RepositoryError(ExportError):
    """A repository that was not exported yet, or is damaged."""


class AgreementError(ExportError):
    """A conversion costs too much.

    Attributes:
        measured: the cosine found.
        bound: the least that is accepted.
    """

    def __init__(self, sentence: str, *, measured: float, bound: float) -> None:
        super().__init__(sentence)
        self.measured = measured
        self.bound = bound


class PlanError(ExportError):
    """A TensorRT plan that was not built."""
