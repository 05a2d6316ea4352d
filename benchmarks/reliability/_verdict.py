"""What must be true, and whether it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Verdict", "documented_reasons", "render"]

_ROW = re.compile(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One line of docs/reliability.md.

    Attributes:
        claim: what must be true.
        measured: what was found.
        holds: whether it is true.
    """

    claim: str
    measured: str
    holds: bool


def render(verdicts: Sequence[Verdict]) -> str:
    """Return a Markdown table, as docs/reliability.md has it."""
    rows = [
        f"| {verdict.claim} | {verdict.measured} | {'yes' if verdict.holds else '**no**'} |" for verdict in verdicts
    ]
    return "\n".join(["| must be true | measured | holds |", "|---|---|---|", *rows])


def documented_reasons(page: Path) -> dict[str, str]:
    """Reason to status code, as docs/errors.md lists them."""
    return dict(_ROW.findall(page.read_text(encoding="utf-8")))
