"""Similarities a batch of requests: the whole of the `similarity` model without Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.errors import InputError, ServingError
from clipsr_serving.manifest import Scoring
from clipsr_serving.similarity import compute_cosine, compute_probability
from clipsr_serving.text.cache import LabelSpaceCache, TextEmbeddingCache
from clipsr_serving.text.prompts import LabelSpace, RawLabelSpace

__all__ = ["ParseLabelSpace", "Similarities", "SimilarityRequest", "ZeroShotClassifier"]

Float32 = NDArray[np.float32]

ParseLabelSpace = Callable[[RawLabelSpace], LabelSpace]
"""Checks and expands a row's labels and templates; raises InputError."""


@dataclass(frozen=True, kw_only=True)
class SimilarityRequest:
    """One request of N rows; rows may differ in labels, though not in how many.

    Attributes:
        image_embedding: FP32 [N, D], L2-normalized.
        spaces: N label spaces, as they came.
    """

    image_embedding: Float32
    spaces: tuple[RawLabelSpace, ...]


@dataclass(frozen=True, kw_only=True)
class Similarities:
    """FP32 [N, labels] each, in the order of the request's labels."""

    cosine: Float32
    probability: Float32


class ZeroShotClassifier:
    """Similarities batches, with one encoder call for all that is missing and one matrix product a label list."""

    def __init__(
        self,
        *,
        cache: TextEmbeddingCache,
        label_spaces: LabelSpaceCache,
        parse: ParseLabelSpace,
        scoring: Scoring,
    ) -> None:
        self._cache = cache
        self._label_spaces = label_spaces
        self._parse = parse
        self._scoring = scoring

    def score(self, requests: Sequence[SimilarityRequest]) -> list[Similarities | ServingError]:
        """Score a batch; a request that fails has its error as answer and leaves the others alone."""
        class_embeddings = self._find_class_embeddings([space for request in requests for space in request.spaces])
        rows: dict[RawLabelSpace, list[tuple[int, int]]] = {}
        for number, request in enumerate(requests):
            for row, space in enumerate(request.spaces):
                rows.setdefault(space, []).append((number, row))
        scored: dict[tuple[int, int], tuple[Float32, Float32]] = {}
        for space, members in rows.items():
            matrix = class_embeddings[space]
            if isinstance(matrix, ServingError):
                continue
            images = np.stack([requests[number].image_embedding[row] for number, row in members])
            cosine = compute_cosine(images, matrix)
            probability = compute_probability(cosine, self._scoring)
            scored.update(zip(members, zip(cosine, probability, strict=True), strict=True))
        return [self._answer(number, request, class_embeddings, scored) for number, request in enumerate(requests)]

    def _find_class_embeddings(self, spaces: Sequence[RawLabelSpace]) -> dict[RawLabelSpace, Float32 | ServingError]:
        class_embeddings: dict[RawLabelSpace, Float32 | ServingError] = {}
        wanted: dict[RawLabelSpace, LabelSpace] = {}
        for space in spaces:
            known = class_embeddings.get(space)
            if known is None:
                known = self._label_spaces.find_embeddings(space)
            if known is not None:
                class_embeddings[space] = known
                self._cache.counters.hits += 0 if isinstance(known, ServingError) else len(known)
            elif space not in wanted:
                try:
                    wanted[space] = self._parse(space)
                except InputError as error:
                    class_embeddings[space] = error
        for space, matrix in zip(wanted, self._cache.look_up(list(wanted.values())), strict=True):
            class_embeddings[space] = matrix
            if not isinstance(matrix, ServingError):
                self._label_spaces.put_embeddings(space, matrix)
        return class_embeddings

    @staticmethod
    def _answer(
        number: int,
        request: SimilarityRequest,
        class_embeddings: dict[RawLabelSpace, Float32 | ServingError],
        scored: dict[tuple[int, int], tuple[Float32, Float32]],
    ) -> Similarities | ServingError:
        for space in request.spaces:
            failure = class_embeddings[space]
            if isinstance(failure, ServingError):
                return failure
        pairs = [scored[number, row] for row in range(len(request.spaces))]
        return Similarities(
            cosine=np.stack([cosine for cosine, _ in pairs]),
            probability=np.stack([probability for _, probability in pairs]),
        )
