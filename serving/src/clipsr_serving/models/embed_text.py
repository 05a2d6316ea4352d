"""The model `embed_text`: texts in templates to embeddings, past the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipsr_serving.backends import read_integer_parameter
from clipsr_serving.manifest import read_manifest
from clipsr_serving.models import _triton
from clipsr_serving.models._text import CountedEncoder
from clipsr_serving.text.model import TextModel

__all__ = ["EmbedTextModel"]


class EmbedTextModel:
    """`texts`, `templates` to `text_embedding`, `text_is_cut`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read manifest and tokenizer."""
        _triton.set_up_logging()
        repository = _triton.find_repository(args)
        self._text = TextModel(
            repository,
            read_manifest(repository),
            encode=CountedEncoder(),
            max_batch_size=read_integer_parameter(args, "text_encoder_max_batch_size"),
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself."""
        return _triton.answer_each(requests, self._answer)

    def _answer(self, request: Any) -> _triton.Answer:
        rows = zip(_triton.read_byte_rows(request, "texts"), _triton.read_byte_rows(request, "templates"), strict=True)
        spaces = [self._text.parse_texts(texts, templates) for texts, templates in rows]
        embedding = self._text.embed([key for space in spaces for key in space.keys])
        return {
            "text_embedding": embedding.reshape(len(spaces), -1, embedding.shape[1]),
            "text_is_cut": np.stack([self._text.find_cut(space) for space in spaces]),
        }
