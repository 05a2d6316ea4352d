"""What a user asks to remove, matched to the published kinds of damage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from clipsr_gateway._manifest import CLEAN
from clipsr_gateway.errors import Violation

_WORD = re.compile(r"[^\W_]+")


def match_kinds(texts: Sequence[str], words: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, ...], list[Violation]]:
    """Find the kinds of damage that texts name.

    Args:
        texts: names or words of kinds, also within sentences; case and hyphens do not matter.
        words: names of each kind.

    Returns:
        The kinds, each once and in published order; and a violation for each text that names none.
    """
    removable = {kind: names for kind, names in words.items() if kind != CLEAN}
    found = [{kind for kind, names in removable.items() if _names_any(text, names)} for text in texts]
    violations = [
        Violation(
            field=f"remove[{number}]",
            reason="DAMAGE_UNKNOWN",
            message=f"{text[:80]!r} names no damage that this service removes; it removes {', '.join(removable)}.",
        )
        for number, (text, kinds) in enumerate(zip(texts, found, strict=True))
        if not kinds
    ]
    return tuple(kind for kind in removable if any(kind in kinds for kinds in found)), violations


def make_context(kinds: Sequence[str], words: Mapping[str, tuple[str, ...]]) -> npt.NDArray[np.float32]:
    """Return FP32 [K]: equal shares for these kinds; zeros for none, which says that the damage is unknown."""
    return np.array([(kind in kinds) / max(1, len(kinds)) for kind in words], dtype=np.float32)


def _names_any(text: str, names: Sequence[str]) -> bool:
    spaced = _spaced(text)
    return any(_spaced(name) in spaced for name in names)


def _spaced(text: str) -> str:
    """Return the words in lower case, each between blanks."""
    words = " ".join(_WORD.findall(text.lower()))
    return f" {words} "
