"""Outcomes as flat records, and the files that a bulk run writes of them."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import click

from clipsr import Classification, FailedImage
from clipsr.cli._classify.formats import shorten_float
from clipsr.cli._classify.journal import Record

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
    """Return what is written of one image; docs/cli.md lists the fields.

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


def check_output(output: Path, *, has_embeddings: bool) -> None:
    """Refuse an output that could not be written in the end, before anything is computed.

    Raises:
        click.UsageError: its ending is not known, its folder is not there, or what writes it is not installed.
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


def write_output(output: Path, records: Iterable[Record]) -> None:
    """Write a file that is there in full or not at all.

    Raises:
        OSError: it cannot be written.
    """
    part = output.parent / f".{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        if output.suffix.lower() == ".parquet":
            from clipsr.cli._classify import parquet

            parquet.write(part, records)
        else:
            _write_text(part, output.suffix.lower(), records)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(output)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _write_text(path: Path, ending: str, records: Iterable[Record]) -> None:
    # A path that is not UTF-8 is written as \udcff, which JSON readers turn back into what it was.
    with path.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
        if ending == ".csv":
            _write_csv(file, records)
        else:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _write_csv(file: TextIO, records: Iterable[Record]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    writer.writerows(_to_rows(records))


def _to_rows(records: Iterable[Record]) -> Iterator[list[object]]:
    for record in records:
        if record["status"] != "OK":
            failure: list[object] = [record["path"], record["status"], record["reason"], record["message"]]
            yield failure + [""] * (len(_CSV_COLUMNS) - len(failure))
            continue
        predictions = record["predictions"]
        best = predictions[0] if predictions else {"label": "", "cosine": "", "probability": ""}
        yield [
            record["path"],
            "OK",
            "",
            "",
            best["label"],
            best["cosine"],
            best["probability"],
            "true" if record["none_of_these"] else "false",
            record["route"],
            *record["input_hw"],
            record["model"],
            json.dumps(predictions, ensure_ascii=False),
        ]
