"""Text and numbers from elsewhere, made fit for a terminal or a file."""

from __future__ import annotations

import struct
import unicodedata

from rich.cells import cell_len, set_cell_size

_ELLIPSIS = "…"
_FLOAT32_DIGITS = range(6, 10)  # 6 digits survive decimal → float32 → decimal, 9 always survive the other way round

_CONTROLS = frozenset({"Cc", "Zl", "Zp"})  # control characters; line and paragraph separators
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""All characters of Unicode's property Bidi_Control: they would show a name in another order than it has."""


def escape_controls(text: str) -> str:
    """Return the text with control characters written out, so that no name can steer the terminal or deceive."""
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in _CONTROLS or char in _BIDI_CONTROLS
        else char
        for char in text
    )


def measure(text: str) -> int:
    """Return how many columns of a terminal the text takes; Chinese and emoji take two a character."""
    return cell_len(text)


def fit_right(text: str, width: int, *, is_cut: bool) -> str:
    """Return the text padded to a width in columns; what is longer loses its end where is_cut, else it sticks out."""
    if measure(text) <= width:
        return text + " " * (width - measure(text))
    return set_cell_size(text, width - 1) + _ELLIPSIS if is_cut else text


def fit_left(text: str, width: int, *, is_cut: bool) -> str:
    """As fit_right, but what is too long loses its beginning: of a path, the file's name says most."""
    if measure(text) <= width or not is_cut:
        return fit_right(text, width, is_cut=False)
    kept = text
    while measure(kept) > width - 1:
        kept = kept[1:]
    return fit_right(_ELLIPSIS + kept, width, is_cut=False)


def shorten_float(value: float) -> float:
    """Return the number with the fewest digits that is the same single-precision number; the wire carries no more."""
    for digits in _FLOAT32_DIGITS:
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == struct.pack("f", value):
            return short
    return value
