"""What `similarity` and `embed_text` share: the manifest's text side, wired to `text_encoder`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.errors import ModelLoadError
from clipsr_serving.manifest import Manifest
from clipsr_serving.models import _triton
from clipsr_serving.text.embedder import TextEmbedder
from clipsr_serving.text.tokenizer import TOKENIZER_FILE, Tokenizer


class CountedEncoder:
    """Calls `text_encoder` and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """INT64 [texts, L] to FP32 [texts, D]."""
        self.calls += 1
        return _triton.call_model("text_encoder", {"tokens": tokens}, "text_embedding")


def read_tokenizer(repository: Path, manifest: Manifest) -> Tokenizer:
    """Read the tokenizer that export wrote.

    Raises:
        ArtifactError: it is missing or does not fit the manifest.
    """
    return Tokenizer(repository / TOKENIZER_FILE, context_length=manifest.text_encoder.context_length)


def make_embedder(
    manifest: Manifest, tokenizer: Tokenizer, encoder: CountedEncoder, args: Mapping[str, str]
) -> TextEmbedder:
    """Put tokenizer and encoder together."""
    return TextEmbedder(
        tokenize=tokenizer,
        encode=encoder,
        max_batch_size=read_integer_parameter(args, "text_encoder_max_batch_size"),
        embed_dim=manifest.image_encoder.embed_dim,
    )


def read_integer_parameter(args: Mapping[str, str], name: str) -> int:
    """Read an integer under `parameters` of the model's config.pbtxt.

    Raises:
        ModelLoadError: it is missing or not an integer.
    """
    config: dict[str, Any] = json.loads(args["model_config"])
    value = config.get("parameters", {}).get(name, {}).get("string_value")
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise ModelLoadError(
            f"model {args['model_name']!r}: config.pbtxt must give the parameter {name!r} as an integer, not {value!r}"
        ) from error
