"""The model `similarity`: owner of the text-embedding cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipsr_serving.backends import read_integer_parameter
from clipsr_serving.manifest import read_manifest
from clipsr_serving.models import _triton
from clipsr_serving.models._text import CountedEncoder
from clipsr_serving.text.model import TextModel
from clipsr_serving.zero_shot import Similarities, SimilarityRequest, build_zero_shot_classifier

__all__ = ["SimilarityModel"]


class SimilarityModel:
    """`image_embedding`, `labels`, `templates` to `cosine`, `probability`, `label_is_cut`, `none_probability`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read manifest, tokenizer and text banks; text_encoder itself may still be loading."""
        _triton.set_up_logging()
        repository = _triton.find_repository(args)
        manifest = read_manifest(repository)
        self._encoder = CountedEncoder()
        text = TextModel(
            repository,
            manifest,
            encode=self._encoder,
            max_batch_size=read_integer_parameter(args, "text_encoder_max_batch_size"),
        )
        self._scorer = build_zero_shot_classifier(
            repository,
            manifest,
            text,
            max_entries=read_integer_parameter(args, "text_cache_max_entries"),
            max_bytes=read_integer_parameter(args, "label_space_cache_max_bytes"),
        )
        _triton.remember_strings(self._scorer.label_spaces)
        self._hits = _triton.Counter("clipsr_text_cache_hits_total", "Labels found in the text-embedding cache")
        self._misses = _triton.Counter("clipsr_text_cache_misses_total", "Labels that had to be encoded")
        self._evictions = _triton.Counter("clipsr_text_cache_evictions_total", "Labels that made room for others")
        self._calls = _triton.Counter("clipsr_text_encoder_calls_total", "Calls of text_encoder by similarity")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests with at most one round of encoder calls."""
        answers = self._scorer.score([self._read(request) for request in requests])
        self._export_counters()
        return [_triton.respond(_tensors(answer)) for answer in answers]

    @staticmethod
    def _read(request: Any) -> SimilarityRequest:
        labels = _triton.read_byte_rows(request, "labels")
        templates = _triton.read_byte_rows(request, "templates")
        return SimilarityRequest(
            image_embedding=_triton.read_array(request, "image_embedding").astype(np.float32, copy=False),
            spaces=tuple(zip(labels, templates, strict=True)),
        )

    def _export_counters(self) -> None:
        counters = self._scorer.cache.counters
        self._hits.advance_to(counters.hits)
        self._misses.advance_to(counters.misses)
        self._evictions.advance_to(counters.evictions)
        self._calls.advance_to(self._encoder.calls)


def _tensors(answer: Similarities | Exception) -> _triton.Answer:
    if isinstance(answer, Exception):
        return answer
    return {
        "cosine": answer.cosine,
        "probability": answer.probability,
        "label_is_cut": answer.label_is_cut,
        "none_probability": answer.none_probability[:, None],
    }
