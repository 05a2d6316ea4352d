"""Labels without number, for measuring what labels cost."""

from __future__ import annotations

_ADJECTIVES = ("small", "large", "old", "new", "red", "green", "blue", "dark", "bright", "round")
_NOUNS = ("cat", "dog", "bird", "horse", "car", "ship", "tree", "house", "flower", "bottle")


def make_labels(n: int, *, series: str = "") -> list[str]:
    """Return different labels of two or three words.

    Args:
        n: how many.
        series: labels of different series have none in common; so nothing of a new series is cached.
    """
    base = [f"{adjective} {noun}" for noun in _NOUNS for adjective in _ADJECTIVES]
    return [
        f"{base[i % len(base)]}{f' {series}{i // len(base)}' if series or i >= len(base) else ''}" for i in range(n)
    ]
