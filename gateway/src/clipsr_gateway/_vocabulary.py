"""Says whether a model knows anything of a text: its tokens, and where they are known, the words it was taught.

Gateway and serving are installed separately, so each has this file, byte for byte the same.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

_TOKENIZER_FILE = Path("text_encoder") / "tokenizer.json"

# A word of two letters or more in plain ASCII: every vocabulary has parts of it.
_ASCII_WORD = re.compile(r"[A-Za-z]{2}")

_WORD = re.compile(r"[^\W\d_]+")
# Nothing that a picture shows: a model need not be taught them.
_FUNCTION_WORDS = frozenset(
    _WORD.findall("a an and at by for from in into is no not of off on or out over some the to with")
)


class Vocabulary:
    """What a model knows: tokens that mean something in scripts beyond ASCII, and the words that it was taught.

    Args:
        tokens: as text; of them count those of several letters and the Chinese characters. None: not known.
        taught_words: all words that it was taught; empty for a model of an open vocabulary.
    """

    def __init__(self, tokens: Iterable[str] | None = None, taught_words: Iterable[str] = ()) -> None:
        self._has_tokens = tokens is not None
        self._tokens = frozenset(token.lower() for token in tokens or () if _means_something(token))
        self._lengths = sorted({len(token) for token in self._tokens})
        taught = frozenset(word.casefold() for word in taught_words)
        self._taught = taught | _FUNCTION_WORDS if taught else taught

    def untaught(self, text: str) -> tuple[str, ...]:
        """Return the words of a text that the model was never taught, also as a plural; none of an open vocabulary."""
        if not self._taught:
            return ()
        words = _WORD.findall(text.casefold())
        return tuple(word for word in words if self._taught.isdisjoint((word, *_singulars(word))))

    def knows(self, text: str) -> bool:
        """Say whether the model has a token for some part of a text.

        A byte-level tokenizer writes any text as bytes, three for a Chinese character, which tells an English model
        nothing; nor do the single letters of other alphabets that its vocabulary happens to have. So a text with
        letters beyond ASCII is unknown if it contains no token of several letters, nor one that is a Chinese
        character. Words in ASCII are known, as are texts without letters.
        """
        if not self._has_tokens or _ASCII_WORD.search(text) or not _has_foreign_letter(text):
            return True
        lowered = text.lower()
        # A multilingual vocabulary has 200,000 tokens: asking for the parts of a text is faster than for each token.
        return any(
            lowered[start : start + length] in self._tokens for length in self._lengths for start in range(len(lowered))
        )


def find_words(names: Iterable[str], templates: Iterable[str]) -> frozenset[str]:
    """Return the words of the names that a model was taught, and of its templates; none if there is no name."""
    names = tuple(names)
    return frozenset(word for text in (*names, *templates) for word in _WORD.findall(text)) if names else frozenset()


def load_vocabulary(repository: Path, taught_words: Iterable[str] = ()) -> Vocabulary:
    """Read the tokenizer's file of a model repository; without one, or a list of tokens in it, every script is known.

    Args:
        repository: the model repository.
        taught_words: see `Vocabulary`.
    """
    try:
        document = json.loads((repository / _TOKENIZER_FILE).read_text(encoding="utf-8"))
        model = document["model"]
        pieces = cast("Iterable[Any]", iter(model["vocab"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Vocabulary(None, taught_words)
    is_byte_level = '"ByteLevel"' in json.dumps(document.get("pre_tokenizer"))
    marks = [model.get("end_of_word_suffix"), model.get("continuing_subword_prefix"), "\u2581"]
    texts = _texts(pieces, marks=[mark for mark in marks if mark], is_byte_level=is_byte_level)
    return Vocabulary(texts, taught_words)


def _texts(pieces: Iterable[Any], *, marks: list[str], is_byte_level: bool) -> Iterable[str]:
    """Return the tokens as the text they stand for; those that are parts of a character are left out."""
    byte_of = {character: byte for byte, character in _byte_characters().items()}
    for piece in pieces:
        token = cast("str", piece if isinstance(piece, str) else piece[0])  # Unigram has pairs with a probability
        for mark in marks:
            token = token.removesuffix(mark).removeprefix(mark)
        if not is_byte_level:
            yield token
        elif all(character in byte_of for character in token):
            try:
                yield bytes(byte_of[character] for character in token).decode()
            except UnicodeDecodeError:
                continue


def _byte_characters() -> dict[int, str]:
    """Return the printable character that stands for each byte in a byte-level vocabulary.

    Source: Radford et al. 2019 (GPT-2), released encoder: printable Latin-1 stands for itself, the rest is moved up.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _singulars(word: str) -> tuple[str, ...]:
    return tuple(word.removesuffix(ending) for ending in ("s", "es") if word.endswith(ending))


def _has_foreign_letter(text: str) -> bool:
    return any(character.isalpha() and not character.isascii() for character in text)


def _means_something(token: str) -> bool:
    if not _has_foreign_letter(token):
        return False
    return len(token) > 1 or unicodedata.name(token, "").startswith("CJK UNIFIED IDEOGRAPH")
