"""Images of a library as rows: a table for people, JSON lines and CSV for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipsr import SearchHit, StoredImage
from clipsr._display.description import format_bytes
from clipsr._display.text import escape_controls
from clipsr.cli._csv import CsvWriter
from clipsr.cli._text import fit_left, shorten_float

IMAGE_COLUMNS = (
    "sha256",
    "source",
    "tags",
    "metadata",
    "width",
    "height",
    "size_bytes",
    "media_type",
    "add_time",
    "route",
    "has_original",
    "model",
)
"""The columns of CSV; docs/library.md lists them."""

HIT_COLUMNS = ("rank", "cosine", *IMAGE_COLUMNS)
_SHORT_HASH = 12  # of 64: enough to tell images apart by eye
_SOURCE_WIDTH_MAX = 60
_SOURCE_SHARE = 3  # of a terminal's width, as in the table of `classify`


def to_record(image: StoredImage) -> dict[str, Any]:
    """Return an image as programs read it; docs/library.md lists the fields."""
    height, width = image.size_hw
    record: dict[str, Any] = {
        "sha256": image.sha256,
        "source": image.source,
        "tags": list(image.tags),
        "metadata": dict(image.metadata),
        "width": width,
        "height": height,
        "size_bytes": image.size_bytes,
        "media_type": image.media_type,
        "add_time": image.add_time.isoformat(),
        "route": image.route,
        "has_original": image.has_original,
        "model": image.model_digest,
    }
    if image.embedding is not None:
        record["embedding"] = [shorten_float(value) for value in image.embedding]
    return record


def write_rows(
    found: Iterable[SearchHit | StoredImage], columns: Sequence[str], *, is_json: bool, is_csv_safe: bool
) -> None:
    """Print images, or what a search found with ranks and cosines, for programs: JSON lines, or CSV of the columns."""
    writer = None if is_json else CsvWriter(sys.stdout, columns, is_safe=is_csv_safe)
    for rank, each in enumerate(found, start=1):
        is_hit = isinstance(each, SearchHit)
        record = to_record(each.image if is_hit else each)
        if is_hit:
            record = {"rank": rank, "cosine": shorten_float(each.cosine), **record}
        if writer is None:
            sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
        else:
            writer.write(record)
        sys.stdout.flush()


def make_table(found: Iterable[SearchHit | StoredImage], console: Console) -> Table:
    """Return the table for people; on a terminal it fits the window, and elsewhere nothing is cut."""
    images = list(found)
    is_search = any(isinstance(each, SearchHit) for each in images)
    table = Table(box=None, pad_edge=False, header_style="bold")
    if is_search:
        table.add_column("rank", justify="right", no_wrap=True)
        table.add_column("cosine", justify="right", no_wrap=True, style="green")
    table.add_column("source", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True, style="cyan")
    table.add_column("tags", overflow="ellipsis", no_wrap=True, style="magenta")
    table.add_column("sha256", no_wrap=True, style="dim")
    if not is_search:
        table.add_column("added", no_wrap=True)
    width = max(_SOURCE_WIDTH_MAX, console.width) if not console.is_terminal else console.width // _SOURCE_SHARE
    for rank, each in enumerate(images, start=1):
        image = each.image if isinstance(each, SearchHit) else each
        cells = [str(rank), f"{each.cosine:.3f}"] if isinstance(each, SearchHit) else []
        cells += [
            fit_left(_name_of(image), width, is_cut=console.is_terminal).rstrip(),
            _size_of(image),
            escape_controls(", ".join(image.tags)),
            image.sha256[:_SHORT_HASH] if console.is_terminal else image.sha256,
        ]
        cells += [] if is_search else [f"{image.add_time.astimezone():%Y-%m-%d %H:%M}"]
        table.add_row(*map(Text, cells))
    return table


def print_table(found: Iterable[SearchHit | StoredImage]) -> None:
    """Print the table on standard output."""
    console = make_console()
    console.print(make_table(found, console))


def make_console() -> Console:
    """Return standard output for tables."""
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 100_000  # a pipe has no edge
    return console


def describe_hit(rank: int, hit: SearchHit) -> str:
    """Return what stands below the thumbnail of an image that was found."""
    image = hit.image
    parts = [f"{rank}.", f"{hit.cosine:.3f}", _name_of(image), _size_of(image), ", ".join(image.tags)]
    return escape_controls("  ".join(part for part in parts if part))


def _name_of(image: StoredImage) -> str:
    return escape_controls(image.source) or image.sha256[:_SHORT_HASH]


def _size_of(image: StoredImage) -> str:
    height, width = image.size_hw
    return f"{width} × {height}, {format_bytes(image.size_bytes)}"
