"""What `clipsr-client library list` and `show` do once their options are understood."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from clipsr import Client, ImageFilter, ImagePage, Library, LibraryInfo
from clipsr._display.description import format_bytes
from clipsr._display.text import escape_controls
from clipsr.cli._csv import CsvWriter
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._library.options import OutputFormat
from clipsr.cli._library.output import write_sheet
from clipsr.cli._library.rows import IMAGE_COLUMNS, make_console, print_table, write_rows

_PAGE_SIZE = 500  # below the service's LibraryLimits.max_page_size


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOptions:
    """Which images to list, and how to show them.

    Attributes:
        where: which images.
        limit: so many; 0 lists all.
        page_token: where to begin; empty at the beginning.
        newest_first: begins with the image that was added last.
        output_format: "table", "json" or "csv".
        is_csv_safe: as CsvWriter's is_safe.
        html: a contact sheet to write; None writes none.
    """

    where: ImageFilter | None
    limit: int
    page_token: str
    newest_first: bool
    output_format: OutputFormat
    is_csv_safe: bool
    html: Path | None


def list_all_libraries(client: Client, *, output_format: OutputFormat, is_csv_safe: bool) -> ExitCode:
    """Print the libraries of the service, by name."""
    libraries = client.list_libraries()
    if output_format == "json":
        for library in libraries:
            print(_to_json(library))
        return ExitCode.OK
    if output_format == "csv":
        writer = CsvWriter(sys.stdout, [field.name for field in fields(LibraryInfo)], is_safe=is_csv_safe)
        for library in libraries:
            writer.write(_to_record(library))
        return ExitCode.OK
    if not libraries:
        report("there are no libraries; `clipsr-client library create` makes one")
        return ExitCode.OK
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("library", "images", "size", "created", "model"):
        table.add_column(column, justify="right" if column in ("images", "size") else "left", no_wrap=True)
    for library in libraries:
        if library.damage:
            table.add_row(Text(escape_controls(library.name)), "", "", "", "damaged")
            continue
        state = "to be embedded again" if library.needs_reembedding else "as served"
        created = f"{library.create_time.astimezone():%Y-%m-%d %H:%M}"
        cells = [library.name, f"{library.image_count:,}", format_bytes(library.size_bytes), created, state]
        table.add_row(*(Text(escape_controls(cell)) for cell in cells))
    make_console().print(table)
    return ExitCode.OK


def show_library(client: Client, name: str, *, is_json: bool) -> ExitCode:
    """Print all that is known of a library."""
    library = client.library(name).info()
    if is_json:
        print(_to_json(library))
        return ExitCode.OK
    rows = dict(_describe(library))
    width = max(map(len, rows))
    for key, value in rows.items():
        print(escape_controls(f"{key.ljust(width)}  {value}"))
    return ExitCode.OK


def list_images(client: Client, name: str, options: ListOptions) -> ExitCode:
    """Print the images of a library in the order of their time."""
    pages = _Pages(client.library(name), options)
    if options.html is not None:
        images = (image for page in pages for image in page.images)
        return write_sheet(options.html, f"Library {name}", [], images)
    if options.output_format != "table":
        images = (image for page in pages for image in page.images)
        is_json = options.output_format == "json"
        write_rows(images, IMAGE_COLUMNS, is_json=is_json, is_csv_safe=options.is_csv_safe)
        return ExitCode.OK
    for page in pages:
        print_table(page.images)
    report(pages.summary())
    return ExitCode.OK


class _Pages:
    """Pages up to the limit; each is printed before the next is fetched, so memory stays flat."""

    def __init__(self, library: Library, options: ListOptions) -> None:
        self._library, self._options = library, options
        self._count = self._total = 0
        self._token = options.page_token

    def __iter__(self) -> Iterator[ImagePage]:
        options = self._options
        while True:
            left = options.limit - self._count if options.limit else _PAGE_SIZE
            page = self._library.list_page(
                self._token,
                where=options.where,
                page_size=min(left, _PAGE_SIZE),
                newest_first=options.newest_first,
                return_thumbnail=options.html is not None,
            )
            self._count += len(page.images)
            self._total, self._token = page.total_count, page.next_page_token
            yield page
            if not self._token or self._count == options.limit:
                return

    def summary(self) -> str:
        """Return how many there were, and how to see the others."""
        more = f"; the next ones: --page {self._token}, all: --limit 0" if self._token else ""
        return f"{self._count:,} of {self._total:,} images{more}"


def _to_json(library: LibraryInfo) -> str:
    return json.dumps(_to_record(library), ensure_ascii=False)


def _to_record(library: LibraryInfo) -> dict[str, Any]:
    return asdict(library) | {"create_time": library.create_time.isoformat()}


def _describe(library: LibraryInfo) -> Iterator[tuple[str, str]]:
    yield "library", library.name
    if library.damage:
        yield "damaged", library.damage
        return
    yield "images", f"{library.image_count:,}, {library.original_count:,} of them with their files"
    yield "size", format_bytes(library.size_bytes)
    yield "created", f"{library.create_time.astimezone():%Y-%m-%d %H:%M:%S %z}"
    yield "files", "kept" if library.keep_originals else "not kept"
    yield "thumbnails", f"at most {library.thumbnail_side_px} px"
    yield "vectors", f"{library.embed_dim} dimensions, {_describe_index(library)}"
    yield "model", library.model_digest
    if library.needs_reembedding:
        yield "state", f"of another model: `clipsr-client library reembed {library.name}` brings it to the one served"


def _describe_index(library: LibraryInfo) -> str:
    if not library.is_indexed:
        return "all compared"
    return f"{library.indexed_count:,} of them in an index"
