"""Text from elsewhere (paths, labels, messages), made fit for a terminal."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

_ELLIPSIS = "…"


def escape_controls(text: str) -> str:
    """Return the text with control characters written out, so that a file's name cannot steer the terminal."""
    return "".join(
        char.encode("unicode_escape").decode("ascii") if unicodedata.category(char) == "Cc" else char for char in text
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
