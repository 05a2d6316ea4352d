"""What is to be removed: by what a user asks for, matched to the published kinds of damage, or by what was detected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from clipsr_gateway._backend.protocol import Damage
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


def context_of(damage: Damage, kinds: Sequence[str], words: Mapping[str, tuple[str, ...]]) -> npt.NDArray[np.float32]:
    """Return FP32 [K]: the probabilities of these kinds of damage, as far as the restorer knows them by name."""
    known = dict(zip(kinds, damage.probability.tolist(), strict=True))
    return np.array([known.get(kind, 0.0) for kind in words], dtype=np.float32)


def is_clean(damage: Damage, kinds: Sequence[str]) -> bool:
    """Say whether no damage is the verdict: as for the encoder's gate, the kind with the largest cosine decides."""
    return kinds[int(damage.cosine.argmax())] == CLEAN


def _names_any(text: str, names: Sequence[str]) -> bool:
    spaced = _spaced(text)
    return any(_spaced(name) in spaced for name in names)


def _spaced(text: str) -> str:
    """Return the words in lower case, each between blanks."""
    words = " ".join(_WORD.findall(text.lower()))
    return f" {words} "
