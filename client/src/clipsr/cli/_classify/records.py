"""Outcomes as flat records, as JSON lines or CSV; docs/cli.md lists the fields."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, TextIO

from clipsr import Classification, FailedImage
from clipsr.cli._csv import CsvWriter
from clipsr.cli._text import shorten_float

Record = dict[str, Any]
"""What is known of one image."""

COLUMNS = (
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
    "warnings",
    "degradation",
    "degradation_probability",
    "degradations",
    "none_probability",
)
"""Fields of a flat record, as tables hold them; only Parquet holds embeddings besides."""


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
    if outcome.none_probability is not None:
        record["none_probability"] = shorten_float(outcome.none_probability)
    if outcome.warnings:
        record["warnings"] = [asdict(warning) for warning in outcome.warnings]
    if outcome.degradations:
        record["degradations"] = [
            {
                "kind": each.kind,
                "cosine": shorten_float(each.cosine),
                "probability": shorten_float(each.probability),
            }
            for each in outcome.degradations
        ]
    if outcome.embedding is not None:
        record["embedding"] = [shorten_float(value) for value in outcome.embedding]
    return record


def flatten(record: Record) -> Record:
    """Return the record with its best prediction, its likeliest damage and its size in fields of their own."""
    if record["status"] != "OK":
        return record
    best: Record = record["predictions"][0] if record["predictions"] else {}
    height, width = record["input_hw"]
    flat = {**record, **best, "input_height": height, "input_width": width}
    if damage := record.get("degradations"):
        flat |= {"degradation": damage[0]["kind"], "degradation_probability": damage[0]["probability"]}
    return flat


class RecordWriter:
    """Writes outcomes or records as JSON lines, or as CSV with its header; what is written is flushed."""

    def __init__(self, file: TextIO, *, is_json: bool, is_csv_safe: bool) -> None:
        self._file = file
        self._csv = None if is_json else CsvWriter(file, COLUMNS, is_safe=is_csv_safe)

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
