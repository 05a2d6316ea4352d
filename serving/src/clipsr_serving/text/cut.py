"""Finds the labels of which the text encoder does not see the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.text.prompts import PLACEHOLDER, fill_template

__all__ = ["find_cut_labels"]

_PROBE = "cat"


class _Tokenizer(Protocol):
    @property
    def context_length(self) -> int: ...
    def find_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]: ...
    def measure(self, texts: Sequence[str]) -> NDArray[np.int64]: ...


def find_cut_labels(labels: Sequence[str], templates: Sequence[str], tokenizer: _Tokenizer) -> NDArray[np.bool_]:
    """Say of each label whether it is cut at the context length in the longest of its templates.

    One template is enough: tokens do not reach across blanks, so a label takes about as many in each. Most labels need
    no look: one in ASCII has at most a token a letter, beside those of the template.

    Returns:
        BOOL [labels].
    """
    lengths = tokenizer.measure([fill_template(template, _PROBE) for template in templates])
    longest = templates[int(lengths.argmax())]
    [glued] = [word for word in longest.split() if PLACEHOLDER in word]  # whose tokens may change with the label
    room = tokenizer.context_length - int(lengths.max()) - len(glued)
    is_cut = np.zeros(len(labels), dtype=np.bool_)
    doubtful = [place for place, label in enumerate(labels) if len(label) > room or not label.isascii()]
    if doubtful:
        is_cut[doubtful] = tokenizer.find_cut([fill_template(longest, labels[place]) for place in doubtful])
    return is_cut
