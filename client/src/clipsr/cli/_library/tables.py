"""The tables that `library export` writes, read again: what is known about images, and their files."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click

from clipsr import FailedImage, NewImage
from clipsr.cli._inputs import Item, read_item

_CSV_ENDING = ".csv"
_JSON_COLUMNS = ("tags", "metadata")  # CSV has them as JSON
_CSV_CELL_BYTES = 1024 * 1024  # the csv module's own 128 KiB are less than all the values of an image may take


class _LineError(Exception):
    """A line says nothing that can be added; the message is for people."""


def read_table(path: Path, *, max_bytes: int) -> Iterator[tuple[str, NewImage | FailedImage]]:
    """Yield the place of every line of a table, and its image or why there is none.

    Each line stands for itself: one that cannot be read does not affect the others.

    Args:
        path: CSV if its name ends so, otherwise JSON lines. Names of files in it are relative to its folder.
        max_bytes: of an image file.
    """
    lines = _read_csv(path) if path.suffix.lower() == _CSV_ENDING else _read_json_lines(path)
    try:
        for number, line in lines:
            place = f"{path}:{number}"
            try:
                record = _parse(line)
                yield f"{place}: {record['file']}", _read_image(path.parent, record, max_bytes=max_bytes)
            except _LineError as error:
                yield place, _failed("LINE_INVALID", str(error))
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        yield str(path), _failed("TABLE_UNREADABLE", f"The rest of the table cannot be read ({reason}): repair it.")


def no_line(path: Path) -> click.UsageError:
    """Return the error of a table in which there is nothing to do."""
    return click.UsageError(f"The table {str(path)!r} names no image: write one with `library export`.")


def _read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line.decode("utf-8-sig"))
            except ValueError:  # no JSON, or no UTF-8
                yield number, None


def _read_csv(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(_CSV_CELL_BYTES)
    with path.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                yield reader.line_num, row | {name: json.loads(row[name]) for name in _JSON_COLUMNS if row.get(name)}
            except ValueError:
                yield reader.line_num, None


def _parse(line: Any) -> dict[str, Any]:
    """Return the fields of a line that matter here, each of its own type.

    Raises:
        _LineError: one is missing or of another type.
    """
    if not isinstance(line, dict):
        raise _LineError("This is no JSON object, or no row of CSV, in UTF-8.")
    record = {name: value for name, value in cast("dict[str, Any]", line).items() if value not in (None, "")}
    file = record.get("file")
    if not isinstance(file, str):
        raise _LineError("This names no file: the library that was exported keeps none of this image.")
    source, sha256 = record.get("source", ""), record.get("sha256", "")
    tags: Any = record.get("tags", [])
    metadata: Any = record.get("metadata", {})
    if not (isinstance(source, str) and isinstance(sha256, str)):
        raise _LineError("source and sha256 must be texts.")
    if not (isinstance(tags, list) and all(isinstance(tag, str) for tag in cast("list[Any]", tags))):
        raise _LineError('tags must be a list of texts, such as ["street"].')
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in cast("dict[str, Any]", metadata).values()
    ):
        raise _LineError('metadata must be an object of texts, such as {"camera": "left"}.')
    return {"file": file, "source": source, "sha256": sha256, "tags": tags, "metadata": metadata}


def _read_image(folder: Path, record: dict[str, Any], *, max_bytes: int) -> NewImage | FailedImage:
    content = read_item(Item(path=str(folder / record["file"])), max_bytes=max_bytes)
    if isinstance(content, FailedImage):
        return content
    if record["sha256"] and hashlib.sha256(content).hexdigest() != record["sha256"]:
        message = "The file is not the one that the table describes (its SHA-256 differs): export it again, as a file."
        return _failed("HASH_MISMATCH", message)
    return NewImage(content=content, source=record["source"], tags=record["tags"], metadata=record["metadata"])


def _failed(reason: str, message: str) -> FailedImage:
    return FailedImage(code="INVALID_ARGUMENT", reason=reason, message=message)
