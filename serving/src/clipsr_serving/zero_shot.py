"""Similarities a batch of requests: the whole of the `similarity` model without Triton."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.errors import InputError, ServingError
from clipsr_serving.manifest import Manifest, Scoring
from clipsr_serving.similarity import compute_cosine, compute_none_probability, compute_probability
from clipsr_serving.text.banks import read_text_banks
from clipsr_serving.text.cache import KnownLabels, LabelSpaceCache, TextEmbeddingCache
from clipsr_serving.text.model import TextModel
from clipsr_serving.text.none_bank import NoneBank, read_none_bank
from clipsr_serving.text.prompts import LabelSpace, RawLabelSpace

__all__ = [
    "ParseLabelSpace",
    "Similarities",
    "SimilarityRequest",
    "ZeroShotClassifier",
    "build_zero_shot_classifier",
]

_log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]

ParseLabelSpace = Callable[[RawLabelSpace], LabelSpace]
"""Checks and expands a row's labels and templates; raises InputError."""

FindCut = Callable[[LabelSpace], NDArray[np.bool_]]
"""Says of each label whether it is cut at the context length."""


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
    """What is known of N images and the request's labels, in their order.

    Attributes:
        cosine: FP32 [N, labels].
        probability: FP32 [N, labels].
        label_is_cut: BOOL [N, labels], whether the text encoder does not see all of the label in its templates.
        none_probability: FP32 [N], that an image shows none of the labels; NaN where the model has no names besides.
    """

    cosine: Float32
    probability: Float32
    label_is_cut: NDArray[np.bool_]
    none_probability: Float32


class ZeroShotClassifier:
    """Scores batches, with one encoder call for all that is missing and one matrix product a label list.

    Attributes:
        cache: embeddings of single labels.
        label_spaces: embeddings of whole label lists.
    """

    def __init__(
        self,
        *,
        cache: TextEmbeddingCache,
        label_spaces: LabelSpaceCache,
        parse: ParseLabelSpace,
        find_cut: FindCut,
        scoring: Scoring,
        bank: NoneBank | None = None,
    ) -> None:
        self.cache = cache
        self.label_spaces = label_spaces
        self._parse = parse
        self._find_cut = find_cut
        self._scoring = scoring
        self._bank = bank

    def score(self, requests: Sequence[SimilarityRequest]) -> list[Similarities | ServingError]:
        """Score a batch; a request that fails has its error as answer and leaves the others alone."""
        known = self._find_labels([space for request in requests for space in request.spaces])
        rows: dict[RawLabelSpace, list[tuple[int, int]]] = {}
        for number, request in enumerate(requests):
            for row, space in enumerate(request.spaces):
                rows.setdefault(space, []).append((number, row))
        scored: dict[tuple[int, int], tuple[Float32, Float32, np.float32]] = {}
        for space, members in rows.items():
            labels = known[space]
            if isinstance(labels, ServingError):
                continue
            images = np.stack([requests[number].image_embedding[row] for number, row in members])
            cosine = compute_cosine(images, labels.embeddings)
            probability = compute_probability(cosine, self._scoring)
            none = self._compute_none(images, cosine, labels)
            scored.update(zip(members, zip(cosine, probability, none, strict=True), strict=True))
        return [self._answer(number, request, known, scored) for number, request in enumerate(requests)]

    def _compute_none(self, images: Float32, cosine: Float32, labels: KnownLabels) -> Float32:
        if self._bank is None or labels.is_other is None:
            return np.full(len(images), np.nan, dtype=np.float32)
        bank_cosine = compute_cosine(images, self._bank.text_embedding)
        return compute_none_probability(cosine, bank_cosine, labels.is_other, self._scoring, self._bank.calibration)

    def _find_labels(self, spaces: Sequence[RawLabelSpace]) -> dict[RawLabelSpace, KnownLabels | ServingError]:
        found: dict[RawLabelSpace, KnownLabels | ServingError] = {}
        wanted: dict[RawLabelSpace, LabelSpace] = {}
        for space in spaces:
            known = found.get(space) or self.label_spaces.find_labels(space)
            if known is not None:
                found[space] = known
                self.cache.counters.hits += 0 if isinstance(known, ServingError) else len(known.embeddings)
            elif space not in wanted:
                try:
                    wanted[space] = self._parse(space)
                except InputError as error:
                    found[space] = error
        for space, matrix in zip(wanted, self.cache.look_up(list(wanted.values())), strict=True):
            if isinstance(matrix, ServingError):
                found[space] = matrix
            else:
                is_other = None if self._bank is None else self._bank.find_others(wanted[space].labels, matrix)
                labels = KnownLabels(embeddings=matrix, is_cut=self._find_cut(wanted[space]), is_other=is_other)
                found[space] = labels
                self.label_spaces.put_labels(space, labels)
        return found

    @staticmethod
    def _answer(
        number: int,
        request: SimilarityRequest,
        known: dict[RawLabelSpace, KnownLabels | ServingError],
        scored: dict[tuple[int, int], tuple[Float32, Float32, np.float32]],
    ) -> Similarities | ServingError:
        is_cut: list[NDArray[np.bool_]] = []
        for space in request.spaces:
            labels = known[space]
            if isinstance(labels, ServingError):
                return labels
            is_cut.append(labels.is_cut)
        rows = [scored[number, row] for row in range(len(request.spaces))]
        return Similarities(
            cosine=np.stack([cosine for cosine, _, _ in rows]),
            probability=np.stack([probability for _, probability, _ in rows]),
            label_is_cut=np.stack(is_cut),
            none_probability=np.array([none for _, _, none in rows], dtype=np.float32),
        )


def build_zero_shot_classifier(
    repository: Path, manifest: Manifest, text: TextModel, *, max_entries: int, max_bytes: int
) -> ZeroShotClassifier:
    """Put together what scores labels for a model repository; the published label sets are known from the start.

    Args:
        repository: the model repository.
        manifest: its manifest.
        text: its text side.
        max_entries: single labels kept, those of text banks aside.
        max_bytes: whole label lists kept.
    """
    cache = TextEmbeddingCache(embed=text.embed, max_entries=max_entries)
    for bank in read_text_banks(repository, manifest):
        for key, row in bank.rows():
            cache.pin(key, row)
    _check_label_sets(manifest, text)
    return ZeroShotClassifier(
        cache=cache,
        label_spaces=LabelSpaceCache(max_bytes),
        parse=text.parse_labels,
        find_cut=text.find_cut,
        scoring=manifest.scoring,
        bank=read_none_bank(repository, manifest),
    )


def _check_label_sets(manifest: Manifest, text: TextModel) -> None:
    """Say which published sets will be refused in every request; the caller's own labels can still be served."""
    for name, labels in manifest.label_sets.items():
        try:
            text.parse_labels((tuple(label.encode() for label in labels), ()))
        except InputError as error:
            _log.warning("The label set %s cannot be used with this text encoder: %s", name, error.message)
