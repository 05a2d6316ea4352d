"""Texts to token ids, with the tokenizer that export wrote beside the text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as _TokenizersFile

from clipsr_serving.errors import ArtifactError

__all__ = ["TOKENIZER_FILE", "Tokenizer"]

TOKENIZER_FILE = Path("text_encoder") / "tokenizer.json"
"""Path inside the model repository."""


class Tokenizer:
    """Reads a `tokenizers` file that truncates and pads to the context length by itself."""

    def __init__(self, path: Path, *, context_length: int) -> None:
        """Read the file and try it.

        Raises:
            ArtifactError: it is missing, unreadable, or its ids are not `context_length` long.
        """
        self.context_length = context_length
        if not path.is_file():
            raise ArtifactError(f"{path} is missing; run `make export` to write it")
        try:
            self._tokenizer = _TokenizersFile.from_file(str(path))
        # The library raises plain Exception for a file that it cannot parse.
        except Exception as error:
            raise ArtifactError(f"{path} is not a tokenizer file ({error}); run `make export` again") from error
        for probe in ("a", "a " * 4 * context_length):
            length = len(self._tokenizer.encode(probe).ids)
            if length != context_length:
                raise ArtifactError(
                    f"{path} gives {length} ids where the text encoder reads {context_length}; run `make export` again"
                )

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokenize; returns INT64 [texts, context_length], cut or padded."""
        return np.array([encoding.ids for encoding in self._encode(texts)], dtype=np.int64)

    def find_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Say of each text whether it has more tokens than the context; returns BOOL [texts]."""
        return np.array([bool(encoding.overflowing) for encoding in self._encode(texts)], dtype=np.bool_)

    def measure(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Count the tokens that are left of each text in the context, the marks around it too; INT64 [texts]."""
        return np.array([sum(encoding.attention_mask) for encoding in self._encode(texts)], dtype=np.int64)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        return self._tokenizer.encode_batch(list(texts))
