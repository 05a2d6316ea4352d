"""The model `similarity`: owner of the text-embedding cache."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipsr_serving.errors import InputError
from clipsr_serving.manifest import Manifest, read_manifest
from clipsr_serving.models import _triton
from clipsr_serving.models._text import CountedEncoder, make_embedder, read_integer_parameter, read_tokenizer
from clipsr_serving.text.banks import read_text_banks
from clipsr_serving.text.cache import LabelSpaceCache, TextEmbeddingCache
from clipsr_serving.text.cut import find_cut_labels
from clipsr_serving.text.distinct import require_distinct_labels, require_visible_labels
from clipsr_serving.text.prompts import LabelSpace, RawLabelSpace, parse_label_space
from clipsr_serving.zero_shot import Similarities, SimilarityRequest, ZeroShotClassifier

__all__ = ["SimilarityModel"]

_log = logging.getLogger(__name__)


class SimilarityModel:
    """`image_embedding`, `labels`, `templates` to `cosine`, `probability`, `label_is_cut`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read manifest, tokenizer and text banks; text_encoder itself may still be loading."""
        _triton.set_up_logging()
        repository = _triton.find_repository(args)
        self._manifest: Manifest = read_manifest(repository)
        self._encoder = CountedEncoder()
        self._tokenizer = read_tokenizer(repository, self._manifest)
        embedder = make_embedder(self._manifest, self._tokenizer, self._encoder, args)
        self._check_label_sets()
        self._cache = TextEmbeddingCache(
            embed=embedder.embed, max_entries=read_integer_parameter(args, "text_cache_max_entries")
        )
        for bank in read_text_banks(repository, self._manifest):
            for key, row in bank.rows():
                self._cache.pin(key, row)
        label_spaces = LabelSpaceCache(read_integer_parameter(args, "label_space_cache_max_bytes"))
        _triton.remember_strings(label_spaces)
        self._scorer = ZeroShotClassifier(
            cache=self._cache,
            label_spaces=label_spaces,
            parse=self._parse,
            find_cut=lambda space: find_cut_labels(space.labels, space.templates, self._tokenizer),
            scoring=self._manifest.scoring,
        )
        self._hits = _triton.Counter("clipsr_text_cache_hits_total", "Labels found in the text-embedding cache")
        self._misses = _triton.Counter("clipsr_text_cache_misses_total", "Labels that had to be encoded")
        self._evictions = _triton.Counter("clipsr_text_cache_evictions_total", "Labels that made room for others")
        self._calls = _triton.Counter("clipsr_text_encoder_calls_total", "Calls of text_encoder by similarity")

    def _parse(self, space: RawLabelSpace) -> LabelSpace:
        labels, templates = space
        parsed = parse_label_space(
            labels,
            templates,
            template_sets=self._manifest.template_sets,
            default_templates=self._manifest.default_templates,
        )
        require_visible_labels(parsed.templates, self._tokenizer)
        require_distinct_labels(parsed, self._tokenizer)
        return parsed

    def _check_label_sets(self) -> None:
        """Say which published sets will be refused in every request; the caller's own labels can still be served."""
        for name, labels in self._manifest.label_sets.items():
            try:
                self._parse((tuple(label.encode() for label in labels), ()))
            except InputError as error:
                _log.warning("The label set %s cannot be used with this text encoder: %s", name, error.message)

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
        counters = self._cache.counters
        self._hits.advance_to(counters.hits)
        self._misses.advance_to(counters.misses)
        self._evictions.advance_to(counters.evictions)
        self._calls.advance_to(self._encoder.calls)


def _tensors(answer: Similarities | Exception) -> _triton.Answer:
    if isinstance(answer, Exception):
        return answer
    return {"cosine": answer.cosine, "probability": answer.probability, "label_is_cut": answer.label_is_cut}
