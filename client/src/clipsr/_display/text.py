"""Text from elsewhere, made safe to show: on a terminal, and in HTML."""

from __future__ import annotations

import html
import unicodedata

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


def escape_html(text: str) -> str:
    """Return the text as HTML that shows it, in an element or a quoted attribute; as escape_controls besides."""
    return html.escape(escape_controls(text))
