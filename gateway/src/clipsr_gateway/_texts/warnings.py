"""Warnings of labels, texts and queries, as the contract has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipsr.v1 import types_pb2
from clipsr_gateway import _text_warnings
from clipsr_gateway._vocabulary import Vocabulary


def cut_warnings(
    texts: Sequence[str], is_cut: npt.NDArray[np.bool_], *, noun: str, field: str, context_length: int
) -> tuple[types_pb2.Warning, ...]:
    """See `_text_warnings.cut_warnings`."""
    found = _text_warnings.cut_warnings(texts, is_cut, noun=noun, field=field, context_length=context_length)
    return tuple(types_pb2.Warning(**each._asdict()) for each in found)


def unknown_warnings(
    texts: Sequence[str], vocabulary: Vocabulary, *, noun: str, field: str
) -> tuple[types_pb2.Warning, ...]:
    """See `_text_warnings.unknown_warnings`."""
    found = _text_warnings.unknown_warnings(texts, vocabulary, noun=noun, field=field)
    return tuple(types_pb2.Warning(**each._asdict()) for each in found)
