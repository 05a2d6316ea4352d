"""What the models that embed texts share: the call of `text_encoder`, counted, and the metrics of the cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.models import _triton
from clipsr_serving.text.cache import CacheCounters


class CountedEncoder:
    """Calls `text_encoder` and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """INT64 [texts, L] to FP32 [texts, D]."""
        self.calls += 1
        return _triton.call_model("text_encoder", {"tokens": tokens}, "text_embedding")


class CacheMetrics:
    """Shows on Triton's metrics page how the text-embedding cache does.

    Args:
        counters: the cache's.
        encoder: what encodes the labels that it lacks.
    """

    def __init__(self, counters: CacheCounters, encoder: CountedEncoder) -> None:
        self._counters, self._encoder = counters, encoder
        self._hits = _triton.Counters("clipsr_text_cache_hits_total", "Labels found in the text-embedding cache")
        self._misses = _triton.Counters("clipsr_text_cache_misses_total", "Labels that had to be encoded")
        self._evictions = _triton.Counters("clipsr_text_cache_evictions_total", "Labels that made room for others")
        self._calls = _triton.Counters("clipsr_text_encoder_calls_total", "Calls of text_encoder by similarity")

    def export(self) -> None:
        """Bring the page up to date."""
        self._hits.advance_to(self._counters.hits)
        self._misses.advance_to(self._counters.misses)
        self._evictions.advance_to(self._counters.evictions)
        self._calls.advance_to(self._encoder.calls)
