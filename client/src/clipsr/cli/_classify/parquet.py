"""Parquet files; the only module that needs pyarrow, which the extra clipsr[export] brings."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import click

from clipsr.cli._classify.journal import Record

_ROWS = 4_096  # of a row group; keeps memory flat, and is a fair size to read


def check_installed() -> None:
    """Raise click.UsageError where pyarrow is missing."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise click.UsageError(
            "Parquet files need pyarrow: pip install 'clipsr[export]', or write .csv or .jsonl."
        ) from None


def write(path: Path, records: Iterable[Record]) -> None:
    """Write one row a record.

    Raises:
        OSError: the file cannot be written.
    """
    arrow: Any = importlib.import_module("pyarrow")  # it has no types
    parquet: Any = importlib.import_module("pyarrow.parquet")
    schema = _make_schema(arrow)
    rows = map(_to_row, records)
    with parquet.ParquetWriter(str(path), schema, compression="zstd") as writer:
        while batch := list(islice(rows, _ROWS)):
            writer.write_table(arrow.Table.from_pylist(batch, schema=schema))


def _make_schema(arrow: Any) -> Any:
    number = arrow.float32()
    prediction = arrow.struct([("label", arrow.string()), ("cosine", number), ("probability", number)])
    return arrow.schema(
        [
            ("path", arrow.string()),
            ("status", arrow.string()),
            ("reason", arrow.string()),
            ("message", arrow.string()),
            ("label", arrow.string()),
            ("cosine", number),
            ("probability", number),
            ("none_of_these", arrow.bool_()),
            ("route", arrow.string()),
            ("input_height", arrow.int32()),
            ("input_width", arrow.int32()),
            ("model", arrow.string()),
            ("predictions", arrow.list_(prediction)),
            ("embedding", arrow.list_(number)),
        ]
    )


def _to_row(record: Record) -> Record:
    """Return the record with its best prediction in columns of its own; what it lacks becomes null."""
    row = {**record, "path": _to_utf8(record["path"])}
    if record["status"] == "OK":
        row["input_height"], row["input_width"] = row.pop("input_hw")
        row |= record["predictions"][0] if record["predictions"] else {}
    return row


def _to_utf8(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
