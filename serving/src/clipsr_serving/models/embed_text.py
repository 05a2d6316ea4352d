"""The model `embed_text`: texts in templates to embeddings, past the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipsr_serving.manifest import Manifest, read_manifest
from clipsr_serving.models import _triton
from clipsr_serving.models._text import CountedEncoder, make_embedder, read_tokenizer
from clipsr_serving.text.cut import find_cut_labels
from clipsr_serving.text.distinct import require_visible_labels
from clipsr_serving.text.prompts import parse_label_space

__all__ = ["EmbedTextModel"]


class EmbedTextModel:
    """`texts`, `templates` to `text_embedding`, `text_is_cut`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read manifest and tokenizer."""
        _triton.set_up_logging()
        repository = _triton.find_repository(args)
        self._manifest: Manifest = read_manifest(repository)
        self._tokenizer = read_tokenizer(repository, self._manifest)
        self._embedder = make_embedder(self._manifest, self._tokenizer, CountedEncoder(), args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself."""
        return _triton.answer_each(requests, self._answer)

    def _answer(self, request: Any) -> _triton.Answer:
        rows = zip(_triton.read_byte_rows(request, "texts"), _triton.read_byte_rows(request, "templates"), strict=True)
        spaces = [
            parse_label_space(
                texts,
                templates,
                template_sets=self._manifest.template_sets,
                default_templates=self._manifest.default_templates,
                noun="text",
                unique=False,
            )
            for texts, templates in rows
        ]
        for templates in {space.templates for space in spaces}:
            require_visible_labels(templates, self._tokenizer)
        embedding = self._embedder.embed([key for space in spaces for key in space.keys])
        is_cut = [find_cut_labels(space.labels, space.templates, self._tokenizer) for space in spaces]
        return {
            "text_embedding": embedding.reshape(len(spaces), -1, embedding.shape[1]),
            "text_is_cut": np.stack(is_cut),
        }
