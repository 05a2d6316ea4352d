"""Pictures in a terminal that can show them: iTerm2's protocol, and kitty's.

Sources: https://iterm2.com/documentation-images.html and https://sw.kovidgoyal.net/kitty/graphics-protocol/.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Literal

Protocol = Literal["iterm2", "kitty"]

_ROWS = 4  # of the terminal, high enough to recognize what a picture shows
_CHUNK = 4_096  # kitty takes no more at a time

_ITERM2_PROGRAMS = frozenset({"iTerm.app", "WezTerm"})
_KITTY_PROGRAMS = frozenset({"ghostty"})


def detect_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """Return how the terminal takes pictures, by what it says of itself; None if it does not, or is behind tmux."""
    if "TMUX" in environment or environment.get("TERM", "").startswith("screen"):
        return None
    program = environment.get("TERM_PROGRAM", "")
    if program in _ITERM2_PROGRAMS or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    if program in _KITTY_PROGRAMS or "KITTY_WINDOW_ID" in environment or environment.get("TERM") == "xterm-kitty":
        return "kitty"
    return None


def draw_picture(content: bytes, protocol: Protocol) -> str:
    """Return what shows a picture in a few rows, with the line end after it.

    Args:
        content: an image file; kitty decodes nothing but PNG.
        protocol: of the terminal.
    """
    encoded = b64encode(content).decode("ascii")
    if protocol == "iterm2":
        options = f"inline=1;size={len(content)};height={_ROWS};preserveAspectRatio=1"
        return f"\x1b]1337;File={options}:{encoded}\a\n"
    chunks = [encoded[start : start + _CHUNK] for start in range(0, len(encoded), _CHUNK)]
    parts: list[str] = []
    for index, chunk in enumerate(chunks):
        options = f"a=T,f=100,q=2,r={_ROWS}," if index == 0 else ""  # q=2: no answer into the caller's input
        is_more = int(index < len(chunks) - 1)
        parts.append(f"\x1b_G{options}m={is_more};{chunk}\x1b\\")
    return "".join(parts) + "\n"
