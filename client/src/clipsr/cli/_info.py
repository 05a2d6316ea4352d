"""The description of the model, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from clipsr import ModelInfo
from clipsr._display.description import describe_libraries, describe_limits, describe_model, describe_sets, format_bytes
from clipsr._display.text import escape_controls
from clipsr.cli._text import measure


def print_info(info: ModelInfo, *, url: str, console: Console) -> None:
    """Print what answers at the address and what it accepts."""
    sections = {
        f"{info.name} at {url}": describe_model(info),
        "Label sets, for --labels": describe_sets(info.label_sets),
        "Template sets, for --templates": describe_sets(info.template_sets),
        "Limits of one request": describe_limits(info),
        "Limits of libraries": describe_libraries(info),
        "Files": [(item.path, f"{format_bytes(item.size_bytes)}, sha256 {item.sha256}") for item in info.artifacts],
    }
    for index, (title, rows) in enumerate(sections.items()):
        if index:
            console.print()
        console.print(Text(escape_controls(title), style="bold"), soft_wrap=True)
        for line in _align(rows):
            console.print(line, soft_wrap=True)


def to_json(info: ModelInfo) -> str:
    """Return all fields as one JSON object."""
    return json.dumps(asdict(info), ensure_ascii=False, indent=2)


def _align(rows: Iterable[tuple[str, str]]) -> Iterator[Text]:
    """Yield the rows with their second cells below each other."""
    rows = [(escape_controls(name), escape_controls(value)) for name, value in rows]
    width = max((measure(name) for name, _ in rows), default=0)
    for name, value in rows:
        line = Text("  ")
        line.append(name, style="cyan")
        line.append(" " * (width - measure(name) + 2) + value)
        line.rstrip()
        yield line
