"""Parquet files; the only module that needs pyarrow, which the extra clipsr[export] brings."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO

import click

from clipsr.cli._classify.records import COLUMNS, Record, flatten

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
    parquet: Any = importlib.import_module("pyarrow.parquet")
    remaining = iter(records)
    with parquet.ParquetWriter(file, _make_schema(), compression="zstd") as writer:
        while batch := list(islice(remaining, _ROWS)):
            writer.write_table(make_table(batch))


def make_table(records: Iterable[Record]) -> Any:
    """Return a pyarrow.Table of one row a record."""
    arrow: Any = importlib.import_module("pyarrow")  # it has no types
    return arrow.Table.from_pylist(list(map(_to_row, records)), schema=_make_schema())


def _make_schema() -> Any:
    arrow: Any = importlib.import_module("pyarrow")
    text, number = arrow.string(), arrow.float32()
    prediction = arrow.struct([("label", text), ("cosine", number), ("probability", number)])
    degradation = arrow.struct([("kind", text), ("cosine", number), ("probability", number)])
    warning = arrow.struct([("reason", text), ("message", text), ("field", text)])
    types = {
        "cosine": number,
        "probability": number,
        "none_of_these": arrow.bool_(),
        "none_probability": number,
        "input_height": arrow.int32(),
        "input_width": arrow.int32(),
        "predictions": arrow.list_(prediction),
        "warnings": arrow.list_(warning),
        "degradation_probability": number,
        "degradations": arrow.list_(degradation),
        "embedding": arrow.list_(number),
    }
    return arrow.schema([(name, types.get(name, text)) for name in (*COLUMNS, "embedding")])


def _to_row(record: Record) -> Record:
    """Return the record as a row; what it lacks becomes null."""
    return {**flatten(record), "path": record["path"].encode("utf-8", "backslashreplace").decode("utf-8")}
