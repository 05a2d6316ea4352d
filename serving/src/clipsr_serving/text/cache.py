"""Keeps text embeddings: single rows by least recent use, text banks for good, whole label lists as matrices."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.errors import TextEncoderError
from clipsr_serving.text.prompts import LabelSpace, TextKey

__all__ = ["CacheCounters", "LruCache", "SizedCache", "TextEmbeddingCache"]

Float32 = NDArray[np.float32]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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


class LruCache(Generic[K, V]):
    """A dictionary of bounded length that forgets what was used longest ago."""

    def __init__(self, max_entries: int) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, got {max_entries}")
        self._max_entries = max_entries
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Look up, and mark as used."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> int:
        """Store; returns how many entries were evicted."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) <= self._max_entries:
            return 0
        self._entries.popitem(last=False)
        return 1


class SizedCache(Generic[K, V]):
    """A dictionary bounded in bytes that forgets what was used longest ago."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Look up, and mark as used."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Store, unless it alone is over the bound."""
        if size_bytes > self._max_bytes:
            return
        replaced = self._entries.pop(key, None)
        self._bytes += size_bytes - (0 if replaced is None else replaced[1])
        self._entries[key] = value, size_bytes
        while self._bytes > self._max_bytes:
            self._bytes -= self._entries.popitem(last=False)[1][1]


class TextEmbeddingCache:
    """Rows by (label, templates); whatever is missing is embedded in one go for a whole batch of requests."""

    def __init__(self, *, embed: Callable[[Sequence[TextKey]], Float32], max_entries: int) -> None:
        """Start empty.

        Args:
            embed: keys to FP32 [keys, D]; raises TextEncoderError.
            max_entries: rows kept besides the pinned ones.
        """
        self._embed = embed
        self._rows: LruCache[TextKey, Float32] = LruCache(max_entries)
        self._pinned: dict[TextKey, Float32] = {}
        self.counters = CacheCounters()

    def pin(self, key: TextKey, row: Float32) -> None:
        """Keep a row for good; for text banks."""
        self._pinned[key] = row

    def look_up(self, spaces: Sequence[LabelSpace]) -> list[Float32 | TextEncoderError]:
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

    def _fill(self, missing: list[TextKey], found: dict[TextKey, Float32]) -> TextEncoderError | None:
        if not missing:
            return None
        try:
            rows = self._embed(missing)
        except TextEncoderError as error:
            return error
        for key, row in zip(missing, rows, strict=True):
            # A copy, or one surviving row would keep the whole batch's matrix alive.
            found[key] = row.copy()
            self.counters.evictions += self._rows.put(key, found[key])
        return None

    @staticmethod
    def _gather(
        space: LabelSpace, found: dict[TextKey, Float32], error: TextEncoderError | None
    ) -> Float32 | TextEncoderError:
        rows = [found.get(key) for key in space.keys]
        complete = [row for row in rows if row is not None]
        if len(complete) == len(rows):
            return np.stack(complete)
        return error or TextEncoderError("text_encoder gave no embedding for some labels")
