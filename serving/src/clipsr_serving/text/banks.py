"""Reads text banks: precomputed embeddings of named label sets, written by export."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.manifest import Manifest
from clipsr_serving.text.prompts import TextKey

__all__ = ["TEXT_ENCODER_ARTIFACT", "TextBank", "read_bank", "read_text_banks"]

TEXT_ENCODER_ARTIFACT = "text_encoder/1/model.onnx"
"""The artifact whose digest a bank must carry: embeddings of another encoder mean nothing to this one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TextBank:
    """One label set's embeddings.

    Attributes:
        labels: K labels.
        templates: the expanded template strings.
        text_embedding: FP32 [K, D], L2-normalized.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...]
    text_embedding: NDArray[np.float32]

    def rows(self) -> Iterator[tuple[TextKey, NDArray[np.float32]]]:
        """Cache keys and their rows."""
        for label, row in zip(self.labels, self.text_embedding, strict=True):
            yield (label, self.templates), row


def read_text_banks(repository: Path, manifest: Manifest) -> list[TextBank]:
    """Read the banks that the manifest lists.

    A bank that is missing, damaged or of another text encoder is left out with a warning: its labels are then encoded
    when first asked for, which is slower and just as right.
    """
    artifact = manifest.artifacts.get(TEXT_ENCODER_ARTIFACT)
    digest = "" if artifact is None else artifact.sha256
    banks = []
    for entry in manifest.text_banks:
        try:
            banks.append(read_bank(repository / entry.file, digest, manifest.image_encoder.embed_dim))
        except (OSError, ValueError, KeyError) as error:
            _log.warning("text bank %s is ignored: %s", entry.file, error)
    return banks


def read_bank(path: Path, digest: str, embed_dim: int) -> TextBank:
    """Read one bank.

    Args:
        path: its file.
        digest: of the text encoder that it must be of.
        embed_dim: D.

    Raises:
        OSError, ValueError, KeyError: it is missing, damaged, or of another text encoder.
    """
    with np.load(path, allow_pickle=False) as arrays:
        if str(arrays["digest"]) != digest:
            raise ValueError("it was made with another text encoder; run `make export`")
        embedding = np.asarray(arrays["text_embedding"], dtype=np.float32)
        labels = tuple(str(label) for label in arrays["labels"])
        templates = tuple(str(template) for template in arrays["templates"])
    if embedding.shape != (len(labels), embed_dim):
        raise ValueError(f"its embeddings have shape {list(embedding.shape)}, not {[len(labels), embed_dim]}")
    return TextBank(labels=labels, templates=templates, text_embedding=embedding)
