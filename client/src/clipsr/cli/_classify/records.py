"""Outcomes as flat records, and the files that hold them; docs/cli.md lists the fields."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import click

from clipsr import Classification, FailedImage
from clipsr._files import open_atomically, open_text_atomically
from clipsr.cli._csv import CsvWriter
from clipsr.cli._text import shorten_float

Record = dict[str, Any]
"""What is known of one image."""

OUTPUT_ENDINGS = (".parquet", ".csv", ".jsonl")

_CSV_COLUMNS = (
    "path",
    "status",
    "reason",
    "message",
    "label",
    "cosine",
    "probability",
    "none_of_these",
    "route",
    "input_height",
    "input_width",
    "model",
    "predictions",
)


def make_record(path: str, outcome: Classification | FailedImage) -> Record:
    """Return what is written of one image.

    Numbers have the fewest digits that give the same single-precision number.
    """
    if isinstance(outcome, FailedImage):
        return {"path": path, "status": outcome.code, "reason": outcome.reason, "message": outcome.message}
    record: Record = {
        "path": path,
        "status": "OK",
        "predictions": [
            {
                "label": each.label,
                "cosine": shorten_float(each.cosine),
                "probability": shorten_float(each.probability),
            }
            for each in outcome.predictions
        ],
        "none_of_these": outcome.none_of_these,
        "route": outcome.route,
        "input_hw": list(outcome.input_hw),
        "model": outcome.model_digest,
    }
    if outcome.embedding is not None:
        record["embedding"] = [shorten_float(value) for value in outcome.embedding]
    return record


def flatten(record: Record) -> Record:
    """Return the record with its best prediction and its size in fields of their own, as tables hold it."""
    if record["status"] != "OK":
        return record
    best: Record = record["predictions"][0] if record["predictions"] else {}
    height, width = record["input_hw"]
    return {**record, **best, "input_height": height, "input_width": width}


class RecordWriter:
    """Writes outcomes or records as JSON lines, or as CSV with its header; what is written is flushed."""

    def __init__(self, file: TextIO, *, is_json: bool, is_csv_safe: bool) -> None:
        self._file = file
        self._csv = None if is_json else CsvWriter(file, _CSV_COLUMNS, is_safe=is_csv_safe)

    def write(self, path: str, outcome: Classification | FailedImage) -> None:
        """Write one image's outcome."""
        self.write_record(make_record(path, outcome))
        self._file.flush()

    def write_record(self, record: Record) -> None:
        """Write one record, without a flush."""
        if self._csv is not None:
            self._csv.write(flatten(record))
        else:  # labels stay readable; a path that is not UTF-8 is escaped by the stream
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Nothing follows the last record."""


def check_output(output: Path, *, has_embeddings: bool) -> None:
    """Refuse an output that could not be written in the end, before anything is computed.

    Raises:
        click.UsageError: its ending is not known, its folder is not there, or what writes it is not installed.
        OSError: it can have no such name.
    """
    ending = output.suffix.lower()
    if ending not in OUTPUT_ENDINGS:
        raise click.UsageError(
            f"--output {str(output)!r} ends in none of {', '.join(OUTPUT_ENDINGS)}: give one of these."
        )
    if output.is_dir() or not output.parent.is_dir():
        raise click.UsageError(f"--output {str(output)!r} is a folder, or in a folder that does not exist: correct it.")
    if ending == ".csv" and has_embeddings:
        raise click.UsageError("A CSV file holds no embeddings: write them to .parquet or .jsonl.")
    if ending == ".parquet":
        from clipsr.cli._classify import parquet

        parquet.check_installed()


def write_output(output: Path, records: Iterable[Record], *, is_csv_safe: bool) -> None:
    """Write a file that is there in full or not at all, and on the disk.

    Raises:
        OSError: it cannot be written.
    """
    ending = output.suffix.lower()
    if ending == ".parquet":
        from clipsr.cli._classify import parquet

        with open_atomically(output, is_durable=True) as file:
            parquet.write(file, records)
        return
    with open_text_atomically(output, is_durable=True) as text:
        writer = RecordWriter(text, is_json=ending == ".jsonl", is_csv_safe=is_csv_safe)
        for record in records:
            writer.write_record(record)
