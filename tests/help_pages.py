"""Pages of documentation that hold the `--help` of commands, word for word, between marks.

A block reads `<!-- help: COMMAND -->`, a fenced text, `<!-- end -->`. A test module per page says which commands it
holds and compares; run as a script with `--write`, it writes the page anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

HELP_WIDTH = 88  # fits a page of documentation
_BLOCK = re.compile(r"(<!-- help: ([a-z0-9 -]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def documented(page: str) -> list[str]:
    """The full names of the commands that a page has a block for, sorted."""
    return sorted(match[2] for match in _BLOCK.finditer(page))


def fill(page: str, helps: Mapping[str, str]) -> str:
    """The page with these helps, by full names of commands, between its marks."""
    return _BLOCK.sub(lambda match: f"{match[1]}```text\n{helps[match[2]].rstrip()}\n```\n{match[3]}", page)


def write_if_asked(path: Path, helps: Mapping[str, str]) -> None:
    """Write the page anew where the script was called with `--write`."""
    if sys.argv[1:] == ["--write"]:
        path.write_text(fill(path.read_text("utf-8"), helps), "utf-8")
