"""Finds the labels of which the text encoder does not see the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.text.prompts import fill_template

__all__ = ["find_cut_labels"]

_PROBE = "cat"


class _Tokenizer(Protocol):
    def find_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]: ...
    def measure(self, texts: Sequence[str]) -> NDArray[np.int64]: ...


def find_cut_labels(labels: Sequence[str], templates: Sequence[str], tokenizer: _Tokenizer) -> NDArray[np.bool_]:
    """Say of each label whether it is cut at the context length in the longest of its templates.

    One template is enough: tokens do not reach across blanks, so a label takes about as many in each.

    Returns:
        BOOL [labels].
    """
    lengths = tokenizer.measure([fill_template(template, _PROBE) for template in templates])
    longest = templates[int(lengths.argmax())]
    return tokenizer.find_cut([fill_template(longest, label) for label in labels])
