"""Keeps text embeddings: single rows by least recent use, text banks for good, and whole label lists."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from clipsr_serving.errors import ModelCallError
from clipsr_serving.text.prompts import LabelSpace, RawLabelSpace, TextKey

__all__ = ["CacheCounters", "KnownLabels", "LabelSpaceCache", "TextEmbeddingCache"]

Float32 = NDArray[np.float32]


@dataclass(kw_only=True)
class CacheCounters:
    """Counts since the start.

    Attributes:
        hits: labels found.
        misses: labels that had to be encoded.
        evictions: labels that made room for others.
    """

    hits: int = 0
    misses: int = 0
    evictions: int = 0


@dataclass(frozen=True, kw_only=True)
class KnownLabels:
    """What is kept of a whole label list.

    Attributes:
        embeddings: FP32 [labels, D].
        is_cut: BOOL [labels], whether the text encoder does not see all of the label.
        is_other: BOOL [B], which names of the bank stand for none of them; None where the model has no bank.
    """

    embeddings: Float32
    is_cut: NDArray[np.bool_]
    is_other: NDArray[np.bool_] | None = None


class LabelSpaceCache:
    """What is kept of whole label lists: callers send the same one with every image.

    The chain from the bytes of a request to its class embeddings, each step remembered for the next request:

        labels and templates as Triton holds them, bytes
          │  `find_strings`: taken apart once, where Triton's Python backend lets us (see `models._triton`)
        RawLabelSpace, tuples of UTF-8 strings
          │  `find_labels`: checked, expanded and embedded once
        class embeddings, FP32 [labels, D], and which labels are cut
          │  rows come from TextEmbeddingCache: one a (label, templates), shared between lists, banks for good
        cosines

    Both kinds of entry share one bound in bytes, and the least recently used goes first: where the backend takes
    tensors apart by itself, all of it is left to the embeddings.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[bytes | RawLabelSpace, Any] = LRUCache(max_bytes, getsizeof=_size_bytes)

    def find_strings(self, encoded: bytes, decode: Callable[[bytes], NDArray[np.object_]]) -> NDArray[np.object_]:
        """Return a BYTES tensor's strings, by `decode` where they are not known."""
        strings = self._entries.get(encoded)
        if strings is None:
            strings = decode(encoded)
            self._put(encoded, strings)
        return strings

    def find_labels(self, space: RawLabelSpace) -> KnownLabels | None:
        """Return what is known of a label space as it came; None if nothing is."""
        return self._entries.get(space)

    def put_labels(self, space: RawLabelSpace, labels: KnownLabels) -> None:
        """Keep them, unless they alone are over the bound."""
        self._put(space, labels)

    def _put(self, key: bytes | RawLabelSpace, value: NDArray[Any] | KnownLabels) -> None:
        with contextlib.suppress(ValueError):  # larger than the bound
            self._entries[key] = value


def _size_bytes(value: NDArray[Any] | KnownLabels) -> int:
    if isinstance(value, KnownLabels):
        others = 0 if value.is_other is None else value.is_other.nbytes
        return value.embeddings.nbytes + value.is_cut.nbytes + others
    if value.dtype == np.object_:
        return value.nbytes + sum(map(sys.getsizeof, value.flat))
    return value.nbytes


class TextEmbeddingCache:
    """Rows by (label, templates); whatever is missing is embedded in one go for a whole batch of requests."""

    def __init__(self, *, embed: Callable[[Sequence[TextKey]], Float32], max_entries: int) -> None:
        """Start empty.

        Args:
            embed: keys to FP32 [keys, D]; raises ModelCallError.
            max_entries: rows kept besides the pinned ones.
        """
        self._embed = embed
        self._rows: LRUCache[TextKey, Float32] = LRUCache(max_entries)
        self._pinned: dict[TextKey, Float32] = {}
        self.counters = CacheCounters()

    def pin(self, key: TextKey, row: Float32) -> None:
        """Keep a row for good; for text banks."""
        self._pinned[key] = row

    def look_up(self, spaces: Sequence[LabelSpace]) -> list[Float32 | ModelCallError]:
        """Find or make the embeddings of several label spaces.

        A failed encoder call is the answer of the spaces that needed it; the others get theirs.

        Returns:
            for each space FP32 [labels, D], rows in the order of its labels, or the error.
        """
        found: dict[TextKey, Float32] = {}
        missing: dict[TextKey, None] = {}
        for space in spaces:
            for key in space.keys:
                self._find(key, found, missing)
        error = self._fill(list(missing), found)
        return [self._gather(space, found, error) for space in spaces]

    def _find(self, key: TextKey, found: dict[TextKey, Float32], missing: dict[TextKey, None]) -> None:
        row = found.get(key)
        if row is None:
            row = self._pinned.get(key)
        if row is None:
            row = self._rows.get(key)
        if row is None:
            self.counters.misses += 1
            missing[key] = None
        else:
            self.counters.hits += 1
            found[key] = row

    def _fill(self, missing: list[TextKey], found: dict[TextKey, Float32]) -> ModelCallError | None:
        if not missing:
            return None
        try:
            rows = self._embed(missing)
        except ModelCallError as error:
            return error
        for key, row in zip(missing, rows, strict=True):
            # A copy, or one surviving row would keep the whole batch's matrix alive.
            found[key] = row.copy()
            held = len(self._rows)
            self._rows[key] = found[key]
            self.counters.evictions += held + 1 - len(self._rows)
        return None

    @staticmethod
    def _gather(
        space: LabelSpace, found: dict[TextKey, Float32], error: ModelCallError | None
    ) -> Float32 | ModelCallError:
        rows = [found.get(key) for key in space.keys]
        complete = [row for row in rows if row is not None]
        if len(complete) == len(rows):
            return np.stack(complete)
        return error or ModelCallError("text_encoder gave no embedding for some labels")
