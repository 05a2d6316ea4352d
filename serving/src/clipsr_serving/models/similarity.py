"""The model `similarity`: owner of the text-embedding cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.backends import read_integer_parameter
from clipsr_serving.manifest import Manifest, read_manifest
from clipsr_serving.models import _triton
from clipsr_serving.models._text import CacheMetrics, CountedEncoder
from clipsr_serving.text.model import TextModel
from clipsr_serving.zero_shot import Similarities, SimilarityRequest, build_zero_shot_classifier

__all__ = ["Scorer", "SimilarityModel"]


class Scorer:
    """Compares image embeddings with labels, whose embeddings it caches, and counts.

    Args:
        repository: the model repository.
        manifest: its manifest.
        args: what Triton hands to `initialize` of `similarity`: its parameters bound the cache.
    """

    def __init__(self, repository: Path, manifest: Manifest, args: Mapping[str, str]) -> None:
        encoder = CountedEncoder()
        text = TextModel(
            repository,
            manifest,
            encode=encoder,
            max_batch_size=read_integer_parameter(args, "text_encoder_max_batch_size"),
        )
        self._classifier = build_zero_shot_classifier(
            repository,
            manifest,
            text,
            max_entries=read_integer_parameter(args, "text_cache_max_entries"),
            max_bytes=read_integer_parameter(args, "label_space_cache_max_bytes"),
        )
        _triton.remember_strings(self._classifier.label_spaces)
        self._metrics = CacheMetrics(self._classifier.cache.counters, encoder)

    def score(self, requests: Sequence[tuple[Any, NDArray[np.float32]]]) -> list[_triton.Answer]:
        """Answer a batch of requests with at most one round of encoder calls.

        Args:
            requests: each with inputs `labels` and `templates`, and its image embeddings [N, D].

        Returns:
            `cosine`, `probability`, `label_is_cut`, `none_probability` of each.
        """
        answers = self._classifier.score([_read(*request) for request in requests])
        self._metrics.export()
        return [_tensors(answer) for answer in answers]


class SimilarityModel:
    """`image_embedding`, `labels`, `templates` to `cosine`, `probability`, `label_is_cut`, `none_probability`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read manifest, tokenizer and text banks; text_encoder itself may still be loading."""
        _triton.set_up_logging()
        repository = _triton.find_repository(args)
        self._scorer = Scorer(repository, read_manifest(repository), args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests."""
        embedded = [(request, _triton.read_array(request, "image_embedding")) for request in requests]
        return [_triton.respond(answer) for answer in self._scorer.score(embedded)]


def _read(request: Any, image_embedding: NDArray[np.float32]) -> SimilarityRequest:
    labels = _triton.read_byte_rows(request, "labels")
    templates = _triton.read_byte_rows(request, "templates")
    return SimilarityRequest(
        image_embedding=image_embedding.astype(np.float32, copy=False),
        spaces=tuple(zip(labels, templates, strict=True)),
    )


def _tensors(answer: Similarities | Exception) -> _triton.Answer:
    if isinstance(answer, Exception):
        return answer
    return {
        "cosine": answer.cosine,
        "probability": answer.probability,
        "label_is_cut": answer.label_is_cut,
        "none_probability": answer.none_probability[:, None],
    }
