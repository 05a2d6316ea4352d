"""Text and numbers, fitted to columns and digits."""

from __future__ import annotations

import struct

from rich.cells import cell_len, set_cell_size

_ELLIPSIS = "…"
_FLOAT32_DIGITS = range(6, 10)  # 6 digits survive decimal → float32 → decimal, 9 always survive the other way round


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
