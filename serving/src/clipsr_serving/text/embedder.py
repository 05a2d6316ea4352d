"""Embeds labels in prompt templates: the mean over the templates, from as few encoder calls as possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.similarity import l2_normalize
from clipsr_serving.text.prompts import TextKey, fill_template

__all__ = ["EncodeTokens", "TextEmbedder", "Tokenize"]

Tokenize = Callable[[Sequence[str]], NDArray[np.int64]]
"""Texts to INT64 [texts, L]."""

EncodeTokens = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""INT64 [texts, L] to FP32 [texts, D]; raises ModelCallError."""


class TextEmbedder:
    """Embeds (label, templates) pairs with a tokenizer and a text encoder, whatever these are."""

    def __init__(self, *, tokenize: Tokenize, encode: EncodeTokens, max_batch_size: int, embed_dim: int) -> None:
        """Wire the parts together.

        Args:
            tokenize: texts to ids.
            encode: ids to embeddings; called with at most `max_batch_size` rows.
            max_batch_size: rows that one call of the encoder takes.
            embed_dim: D.
        """
        if max_batch_size < 1:
            raise ValueError(f"max_batch_size must be at least 1, got {max_batch_size}")
        self._tokenize = tokenize
        self._encode = encode
        self._max_batch_size = max_batch_size
        self._embed_dim = embed_dim

    def embed(self, keys: Sequence[TextKey]) -> NDArray[np.float32]:
        """Embed each key: the mean of its L2-normalized texts, normalized again.

        A text that several keys share is encoded once. Memory stays at one chunk of texts beside the result.

        Returns:
            FP32 [keys, D], L2-normalized.

        Raises:
            ModelCallError: an encoder call failed.

        Source: Radford et al. 2021 (CLIP), section 3.1.4, ensembling over the embedding space.
        """
        row_of_text: dict[str, int] = {}
        text_rows, key_rows = [], []
        for key_row, (label, templates) in enumerate(keys):
            for template in templates:
                text = fill_template(template, label)
                text_rows.append(row_of_text.setdefault(text, len(row_of_text)))
                key_rows.append(key_row)
        return self._average(list(row_of_text), np.array(text_rows), np.array(key_rows), len(keys))

    def _average(
        self, texts: list[str], text_rows: NDArray[np.int_], key_rows: NDArray[np.int_], key_count: int
    ) -> NDArray[np.float32]:
        order = np.argsort(text_rows, kind="stable")
        text_rows, key_rows = text_rows[order], key_rows[order]
        total = np.zeros((key_count, self._embed_dim), dtype=np.float32)
        for start in range(0, len(texts), self._max_batch_size):
            chunk = texts[start : start + self._max_batch_size]
            embedding = l2_normalize(self._encode(self._tokenize(chunk)))
            first, last = np.searchsorted(text_rows, (start, start + len(chunk)))
            np.add.at(total, key_rows[first:last], embedding[text_rows[first:last] - start])
        return l2_normalize(total)
