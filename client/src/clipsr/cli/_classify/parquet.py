"""Parquet files; the only module that needs pyarrow, which the extra clipsr[export] brings."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO

import click

from clipsr.cli._classify.records import Record, flatten

_ROWS = 4_096  # of a row group; keeps memory flat, and is a fair size to read


def check_installed() -> None:
    """Raise click.UsageError where pyarrow is missing."""
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise click.UsageError(
            "Parquet files need pyarrow: pip install 'clipsr[export]', or write .csv or .jsonl."
        ) from None


def write(file: BinaryIO, records: Iterable[Record]) -> None:
    """Write one row a record.

    Raises:
        OSError: the file cannot be written.
    """
    arrow: Any = importlib.import_module("pyarrow")  # it has no types
    parquet: Any = importlib.import_module("pyarrow.parquet")
    schema = _make_schema(arrow)
    rows = map(_to_row, records)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
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
    """Return the record as a row; what it lacks becomes null."""
    return {**flatten(record), "path": record["path"].encode("utf-8", "backslashreplace").decode("utf-8")}
