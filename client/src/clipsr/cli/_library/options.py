"""Options that several commands of `clipsr-client library` share."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import click

from clipsr import ImageFilter
from clipsr._codecs.arguments import as_text
from clipsr.cli._csv import csv_safe_option
from clipsr.cli._inputs import STDIN
from clipsr.cli._options import KEPT, Command, given, in_order
from clipsr.cli._streams import configure_stream

_DEFAULT = "default"
_VARIABLE = "CLIPSR_LIBRARY"

OutputFormat = Literal["table", "json", "csv"]

_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z")


def library_option(command: Command) -> Command:
    """Add --library, which names the library."""
    return click.option(
        "--library",
        "-l",
        "name",
        envvar=_VARIABLE,
        default=_DEFAULT,
        show_default=True,
        show_envvar=True,
        metavar="NAME",
        help="The library.",
    )(command)


def library_argument(command: Command) -> Command:
    """Add NAME, which names the library and may be left out."""
    return click.argument("name", metavar="[NAME]", envvar=_VARIABLE, default=_DEFAULT)(command)


format_options = in_order(
    click.option(
        "--format",
        "output_format",
        type=click.Choice(["table", "json", "csv"]),
        help="table unless given; json is one object a line.",
        **KEPT,
    ),
    click.option("--json", "is_json", is_flag=True, help="Short for --format json.", **KEPT),
    click.option("--csv", "is_csv", is_flag=True, help="Short for --format csv.", **KEPT),
    csv_safe_option,
)
"""How images are shown; the command calls chosen_format()."""


def chosen_format() -> OutputFormat:
    """Return the format of the command that runs; what programs read is UTF-8 in every locale.

    Raises:
        click.UsageError: several are asked for.
    """
    values = given()
    asked: set[OutputFormat | None] = {
        values["output_format"],
        "json" if values["is_json"] else None,
        "csv" if values["is_csv"] else None,
    }
    named: list[OutputFormat] = [name for name in asked if name is not None]
    if len(named) > 1:
        raise click.UsageError("Give one of --json, --csv and --format.")
    chosen: OutputFormat = named[0] if named else "table"
    if chosen != "table":
        configure_stream(sys.stdout, encoding="utf-8")
    return chosen


filter_options = in_order(
    click.option(
        "--tag",
        "all_tags",
        multiple=True,
        metavar="TAG",
        help="Only images with this tag; repeat for several.",
        **KEPT,
    ),
    click.option(
        "--any-tag",
        "any_tags",
        multiple=True,
        metavar="TAG",
        help="Only images with one of these tags at least.",
        **KEPT,
    ),
    click.option(
        "--meta", multiple=True, metavar="KEY=VALUE", help="Only images with this value; repeat for several.", **KEPT
    ),
    click.option("--source", "source_prefix", metavar="TEXT", help="Only images whose source begins so.", **KEPT),
    click.option(
        "--since", "added_from", type=click.DateTime(_TIMES), metavar="TIME", help="Only images added since.", **KEPT
    ),
    click.option(
        "--before",
        "added_before",
        type=click.DateTime(_TIMES),
        metavar="TIME",
        help="Only images added before; a date, or a date and a time, of this machine's time zone.",
        **KEPT,
    ),
)
"""Which images are meant; the command calls chosen_filter()."""


def chosen_filter() -> ImageFilter | None:
    """Return the filter of the command that runs; None where no option asks for one.

    Raises:
        click.UsageError: --meta is no KEY=VALUE.
    """
    values = given()
    names = ("all_tags", "any_tags", "meta", "source_prefix", "added_from", "added_before")
    if not any(values[name] for name in names):
        return None
    return ImageFilter(
        all_tags=values["all_tags"],
        any_tags=values["any_tags"],
        metadata=parse_metadata(values["meta"]),
        source_prefix=values["source_prefix"] or "",
        added_from=_with_zone(values["added_from"]),
        added_before=_with_zone(values["added_before"]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which images a command means.

    Attributes:
        hashes: their names; empty where a filter says it.
        where: the filter; one without conditions means every image.
    """

    hashes: Sequence[str]
    where: ImageFilter | None


selection_options = in_order(
    click.argument("hashes", metavar="[SHA256]...", nargs=-1, **KEPT),
    library_option,
    filter_options,
)
"""Which images are meant; the command calls chosen_images()."""

every_image_option = click.option("--all", "is_all", is_flag=True, help="Every image of the library.", **KEPT)
"""Lets a command mean every image."""


def chosen_images() -> Selection:
    """Return which images the command that runs means; "-" reads their names from standard input.

    Raises:
        click.UsageError: they are named in several ways, or not at all.
    """
    values = given()
    hashes, where, is_all = values["hashes"], chosen_filter(), values.get("is_all")
    if bool(hashes) + (where is not None) + bool(is_all) > 1:
        raise click.UsageError("Give either SHA256... or filters such as --tag: which images?")
    if is_all:
        where = ImageFilter()
    elif not hashes and where is None:
        rest = "`library drop` removes everything." if is_all is None else "--all means every image."
        raise click.UsageError(
            f"Say which images: SHA256..., - to read them from standard input, or filters such as --tag. {rest}"
        )
    names = sys.stdin.read().split() if list(hashes) == [STDIN] else list(hashes)
    return Selection(hashes=names, where=where)


def parse_metadata(pairs: Sequence[str], *, option: str = "--meta") -> Mapping[str, str]:
    """Return the values of an option by their keys.

    Raises:
        click.UsageError: one is no KEY=VALUE, or a key comes twice.
        InvalidRequestError: one cannot be written as UTF-8.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = as_text(option, pair).partition("=")
        if not key or not sign:
            raise click.UsageError(f"{option} {pair!r} is not KEY=VALUE: write it as camera=left.")
        if key in metadata:
            raise click.UsageError(f"{option} gives {key!r} twice: a key has one value.")
        metadata[key] = value
    return metadata


def _with_zone(time: datetime | None) -> datetime | None:
    return time.astimezone() if time is not None and time.tzinfo is None else time
