"""The text side of a checkpoint: what is sent as labels, texts and templates, checked and embedded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.manifest import Manifest
from clipsr_serving.text.cut import find_cut_labels
from clipsr_serving.text.distinct import require_distinct_labels, require_visible_labels
from clipsr_serving.text.embedder import EncodeTokens, TextEmbedder
from clipsr_serving.text.prompts import LabelSpace, RawLabelSpace, TextKey, parse_label_space
from clipsr_serving.text.tokenizer import TOKENIZER_FILE, Tokenizer

__all__ = ["TextModel"]


class TextModel:
    """Tokenizer and text encoder of a model repository, with the template sets of its manifest.

    Args:
        repository: the model repository.
        manifest: its manifest.
        encode: runs the text encoder.
        max_batch_size: texts that one call of `encode` takes.

    Raises:
        ArtifactError: the tokenizer is missing or does not fit the manifest.
    """

    def __init__(self, repository: Path, manifest: Manifest, *, encode: EncodeTokens, max_batch_size: int) -> None:
        self._manifest = manifest
        self._tokenizer = Tokenizer(repository / TOKENIZER_FILE, context_length=manifest.text_encoder.context_length)
        self._embedder = TextEmbedder(
            tokenize=self._tokenizer,
            encode=encode,
            max_batch_size=max_batch_size,
            embed_dim=manifest.image_encoder.embed_dim,
        )

    def parse_labels(self, space: RawLabelSpace) -> LabelSpace:
        """Check labels to choose from, and put in template sets.

        Raises:
            InputError: as `parse_label_space`, TEMPLATE_TOO_LONG or LABELS_INDISTINGUISHABLE.
        """
        labels, templates = space
        parsed = self._parse(labels, templates, noun="label", unique=True)
        require_distinct_labels(parsed, self._tokenizer)
        return parsed

    def parse_texts(self, texts: Sequence[bytes], templates: Sequence[bytes]) -> LabelSpace:
        """Check texts to embed, which may repeat, and put in template sets.

        Raises:
            InputError: as `parse_label_space`, or TEMPLATE_TOO_LONG.
        """
        return self._parse(texts, templates, noun="text", unique=False)

    def _parse(self, texts: Sequence[bytes], templates: Sequence[bytes], *, noun: str, unique: bool) -> LabelSpace:
        parsed = parse_label_space(
            texts,
            templates,
            template_sets=self._manifest.template_sets,
            default_templates=self._manifest.default_templates,
            noun=noun,
            unique=unique,
        )
        require_visible_labels(parsed.templates, self._tokenizer)
        return parsed

    def embed(self, keys: Sequence[TextKey]) -> NDArray[np.float32]:
        """Embed texts in their templates; see `TextEmbedder.embed`."""
        return self._embedder.embed(keys)

    def find_cut(self, space: LabelSpace) -> NDArray[np.bool_]:
        """Say of each text whether it is cut at the context length; BOOL [texts]."""
        return find_cut_labels(space.labels, space.templates, self._tokenizer)
