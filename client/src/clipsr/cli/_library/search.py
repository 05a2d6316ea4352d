"""What `clipsr-client library search` does once its options are understood."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from clipsr import Client, ImageFilter, Library, SearchHit, SearchResult, StoredImage
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._inputs import STDIN, Item, read_item
from clipsr.cli._library.options import OutputFormat
from clipsr.cli._library.output import write_sheet
from clipsr.cli._library.rows import HIT_COLUMNS, describe_hit, print_table, write_rows
from clipsr.cli._library.thumbnails import Protocol, detect_protocol, draw_picture

_KITTY_FILE_BYTES = 256 * 1024  # an image that is drawn a few rows high is not worth more


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What to search with: exactly one is set.

    Attributes:
        text: words.
        image: path of an image file; "-" is standard input.
        sha256: of an image of the library.
    """

    text: str | None
    image: str | None
    sha256: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions:
    """How to search and how to show what was found.

    Attributes:
        templates: prompt templates, or one set with its "@"; empty for the service's default.
        top_k: images to find.
        where: which images are searched.
        min_cosine: least cosine.
        is_exact: whether the index is passed over.
        exclude_query: whether the image that is searched with stays out.
        output_format: "table", "json" or "csv".
        is_csv_safe: as CsvWriter's is_safe.
        has_thumbnails: whether pictures are drawn; None where the terminal can.
        html: a contact sheet to write; None writes none.
    """

    templates: Sequence[str]
    top_k: int
    where: ImageFilter | None
    min_cosine: float | None
    is_exact: bool
    exclude_query: bool
    output_format: OutputFormat
    is_csv_safe: bool
    has_thumbnails: bool | None
    html: Path | None


def search_images(client: Client, name: str, query: Query, options: SearchOptions) -> ExitCode:
    """Search a library, and print what was found or write it.

    Raises:
        click.UsageError: the image cannot be read, or pictures are asked for where none can be shown.
        ClipsrError: the service could not be asked, or refused the query.
    """
    protocol = _pick_protocol(options)
    library = client.library(name)
    content = None if query.image is None else _read(query.image, client)
    result = _ask(library, query, content, options, has_thumbnails=protocol is not None or options.html is not None)
    for warning in result.warnings:
        report(warning.message)
    if options.html is not None:
        notes = [f"{len(result.hits)} images of library {name}, by model {result.model_digest}"]
        warnings = [warning.message for warning in result.warnings]
        return write_sheet(options.html, _make_title(query), notes, result.hits, warnings=warnings, query_image=content)
    if options.output_format != "table":
        is_json = options.output_format == "json"
        write_rows(result.hits, HIT_COLUMNS, is_json=is_json, is_csv_safe=options.is_csv_safe)
    elif not result.hits:
        report(f"nothing was found in library {name}")
    elif protocol is None:
        print_table(result.hits)
    else:
        _draw(library, result.hits, protocol)
    return ExitCode.OK


def _pick_protocol(options: SearchOptions) -> Protocol | None:
    if options.output_format != "table" or options.html is not None or options.has_thumbnails is False:
        return None
    protocol = detect_protocol(os.environ) if sys.stdout.isatty() else None
    if options.has_thumbnails and protocol is None:
        raise click.UsageError("This terminal shows no pictures that this command can draw: use --html FILE instead.")
    return protocol


def _read(path: str, client: Client) -> bytes:
    if path == STDIN and sys.stdin.isatty():
        raise click.UsageError("Standard input (-) is a terminal: redirect an image file into it.")
    content = read_item(Item(path=path), max_bytes=client.model_info().limits.max_image_bytes)
    if not isinstance(content, bytes):
        raise click.UsageError(f"--image {path!r}: {content.message}")
    return content


def _ask(
    library: Library, query: Query, content: bytes | None, options: SearchOptions, *, has_thumbnails: bool
) -> SearchResult:
    if query.text is not None:
        return library.search_text(
            query.text,
            templates=options.templates,
            top_k=options.top_k,
            where=options.where,
            min_cosine=options.min_cosine,
            is_exact=options.is_exact,
            return_thumbnail=has_thumbnails,
        )
    return library.search_image(
        content,
        sha256=query.sha256,
        exclude_query=options.exclude_query,
        top_k=options.top_k,
        where=options.where,
        min_cosine=options.min_cosine,
        is_exact=options.is_exact,
        return_thumbnail=has_thumbnails,
    )


def _make_title(query: Query) -> str:
    if query.text is not None:
        return f"“{query.text}”"
    return f"Like {query.sha256 or query.image}"


def _draw(library: Library, hits: Sequence[SearchHit], protocol: Protocol) -> None:
    """Print each image above its line; without its picture where the terminal cannot decode it."""
    for rank, hit in enumerate(hits, start=1):
        content = _load_png(library, hit.image) if protocol == "kitty" else hit.image.thumbnail
        if content is not None:
            sys.stdout.write(draw_picture(content, protocol))
        print(describe_hit(rank, hit), flush=True)


def _load_png(library: Library, image: StoredImage) -> bytes | None:
    """Return the file of a small PNG image; None for others, which kitty cannot decode, nor any WebP thumbnail."""
    if image.media_type != "image/png" or not image.has_original or image.size_bytes > _KITTY_FILE_BYTES:
        return None
    return library.get_image(image.sha256, return_original=True).original
