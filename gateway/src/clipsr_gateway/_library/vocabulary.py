"""Says whether a model's vocabulary has anything of a text but the bytes that it is written with."""

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


class Vocabulary:
    """The tokens of a model that mean something in scripts beyond ASCII: several letters, or a Chinese character.

    Args:
        tokens: as text.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = frozenset(token.lower() for token in tokens if _means_something(token))
        self._lengths = sorted({len(token) for token in self._tokens})

    def knows(self, text: str) -> bool:
        """Say whether the model has a token for some part of a text.

        A byte-level tokenizer writes any text as bytes, three for a Chinese character, which tells an English model
        nothing; nor do the single letters of other alphabets that its vocabulary happens to have. So a text with
        letters beyond ASCII is unknown if it contains no token of several letters, nor one that is a Chinese
        character. Words in ASCII are known, as are texts without letters.
        """
        if _ASCII_WORD.search(text) or not _has_foreign_letter(text):
            return True
        lowered = text.lower()
        # A multilingual vocabulary has 200,000 tokens: asking for the parts of a text is faster than for each token.
        return any(
            lowered[start : start + length] in self._tokens for length in self._lengths for start in range(len(lowered))
        )


def load_vocabulary(repository: Path) -> Vocabulary | None:
    """Read the tokenizer's file of a model repository; None if it is not there or has no list of tokens."""
    try:
        document = json.loads((repository / _TOKENIZER_FILE).read_text(encoding="utf-8"))
        model = document["model"]
        pieces = cast("Iterable[Any]", iter(model["vocab"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_byte_level = '"ByteLevel"' in json.dumps(document.get("pre_tokenizer"))
    marks = [model.get("end_of_word_suffix"), model.get("continuing_subword_prefix"), "\u2581"]
    return Vocabulary(_texts(pieces, marks=[mark for mark in marks if mark], is_byte_level=is_byte_level))


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


def _has_foreign_letter(text: str) -> bool:
    return any(character.isalpha() and not character.isascii() for character in text)


def _means_something(token: str) -> bool:
    if not _has_foreign_letter(token):
        return False
    return len(token) > 1 or unicodedata.name(token, "").startswith("CJK UNIFIED IDEOGRAPH")
