"""What `similarity` and `embed_text` share: the call of `text_encoder`, counted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.models import _triton


class CountedEncoder:
    """Calls `text_encoder` and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """INT64 [texts, L] to FP32 [texts, D]."""
        self.calls += 1
        return _triton.call_model("text_encoder", {"tokens": tokens}, "text_embedding")
