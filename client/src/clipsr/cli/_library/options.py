"""Options that several commands of `clipsr-client library` share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import click

from clipsr import ImageFilter
from clipsr.cli._exits import ExitCode
from clipsr.cli._streams import configure_stream

_DEFAULT = "default"
_VARIABLE = "CLIPSR_LIBRARY"
_STORE = "clipsr.library"  # in click's context, so that no command has to pass these options on

OutputFormat = Literal["table", "json", "csv"]

_Command = Callable[..., ExitCode]

_TIMES = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z")


def _keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    ctx.meta.setdefault(_STORE, {})[parameter.name] = value
    return value


_KEPT: dict[str, Any] = {"expose_value": False, "callback": _keep}


def library_option(command: _Command) -> _Command:
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


def library_argument(command: _Command) -> _Command:
    """Add NAME, which names the library and may be left out."""
    return click.argument("name", metavar="[NAME]", envvar=_VARIABLE, default=_DEFAULT)(command)


def format_options(command: _Command) -> _Command:
    """Add --format, and --json and --csv for short; the command calls chosen_format()."""
    for option in (
        click.option("--csv", "is_csv", is_flag=True, help="Short for --format csv.", **_KEPT),
        click.option("--json", "is_json", is_flag=True, help="Short for --format json.", **_KEPT),
        click.option(
            "--format",
            "output_format",
            type=click.Choice(["table", "json", "csv"]),
            help="table unless given; json is one object a line.",
            **_KEPT,
        ),
    ):
        command = option(command)
    return command


def chosen_format() -> OutputFormat:
    """Return the format of the command that runs; what programs read is UTF-8 in every locale.

    Raises:
        click.UsageError: several are asked for.
    """
    given = _given()
    asked: set[OutputFormat | None] = {
        given["output_format"],
        "json" if given["is_json"] else None,
        "csv" if given["is_csv"] else None,
    }
    named: list[OutputFormat] = [name for name in asked if name is not None]
    if len(named) > 1:
        raise click.UsageError("Give one of --json, --csv and --format.")
    chosen: OutputFormat = named[0] if named else "table"
    if chosen != "table":
        configure_stream(sys.stdout, encoding="utf-8")
    return chosen


def filter_options(command: _Command) -> _Command:
    """Add the options that say which images are meant; the command calls chosen_filter()."""
    for option in (
        click.option(
            "--before",
            "added_before",
            type=click.DateTime(_TIMES),
            metavar="TIME",
            help="Only images added before; a date, or a date and a time, of this machine's time zone.",
            **_KEPT,
        ),
        click.option(
            "--since",
            "added_from",
            type=click.DateTime(_TIMES),
            metavar="TIME",
            help="Only images added since.",
            **_KEPT,
        ),
        click.option("--source", "source_prefix", metavar="TEXT", help="Only images whose source begins so.", **_KEPT),
        click.option(
            "--meta",
            multiple=True,
            metavar="KEY=VALUE",
            help="Only images with this value; repeat for several.",
            **_KEPT,
        ),
        click.option(
            "--any-tag",
            "any_tags",
            multiple=True,
            metavar="TAG",
            help="Only images with one of these tags at least.",
            **_KEPT,
        ),
        click.option(
            "--tag",
            "all_tags",
            multiple=True,
            metavar="TAG",
            help="Only images with this tag; repeat for several.",
            **_KEPT,
        ),
    ):
        command = option(command)
    return command


def chosen_filter() -> ImageFilter | None:
    """Return the filter of the command that runs; None where no option asks for one.

    Raises:
        click.UsageError: --meta is no KEY=VALUE.
    """
    given = _given()
    names = ("all_tags", "any_tags", "meta", "source_prefix", "added_from", "added_before")
    if not any(given[name] for name in names):
        return None
    return ImageFilter(
        all_tags=given["all_tags"],
        any_tags=given["any_tags"],
        metadata=parse_metadata(given["meta"]),
        source_prefix=given["source_prefix"] or "",
        added_from=_with_zone(given["added_from"]),
        added_before=_with_zone(given["added_before"]),
    )


def parse_metadata(pairs: Sequence[str]) -> Mapping[str, str]:
    """Return the values of --meta by their keys.

    Raises:
        click.UsageError: one is no KEY=VALUE, or a key comes twice.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not key or not sign:
            raise click.UsageError(f"--meta {pair!r} is not KEY=VALUE: write it as camera=left.")
        if key in metadata:
            raise click.UsageError(f"--meta gives {key!r} twice: a key has one value.")
        metadata[key] = value
    return metadata


def _given() -> dict[str, Any]:
    return click.get_current_context().meta[_STORE]


def _with_zone(time: datetime | None) -> datetime | None:
    return time.astimezone() if time is not None and time.tzinfo is None else time
