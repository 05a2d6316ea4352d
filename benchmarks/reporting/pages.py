"""Measured text in pages, between marks that name the measurement."""

from __future__ import annotations

from pathlib import Path


def insert(page: Path, mark: str, text: str) -> None:
    """Replace what stands between `<!-- MARK:begin -->` and `<!-- MARK:end -->` of a page.

    Raises:
        ValueError: the page does not have these marks, each once.
    """
    begin, end = require_marks(page, mark)
    content = page.read_text(encoding="utf-8")
    before, rest = content.split(begin)
    _, after = rest.split(end)
    page.write_text(f"{before}{begin}\n{text}{end}{after}", encoding="utf-8")


def require_marks(page: Path, mark: str) -> tuple[str, str]:
    """Return the marks, after a look at the page: before an hour of measuring, not after it.

    Raises:
        ValueError: the page does not have these marks, each once.
    """
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    content = page.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1:
        raise ValueError(f"{page} needs the marks {begin} and {end}, each once")
    return begin, end
