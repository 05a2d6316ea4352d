"""The file of `--output`: Parquet, CSV or JSON lines, by its ending."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from clipsr._files import open_atomically, open_text_atomically
from clipsr.cli._classify.records import Record, RecordWriter

OUTPUT_ENDINGS = (".parquet", ".csv", ".jsonl")


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
