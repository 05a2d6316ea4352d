"""The output: a folder with one Parquet file a partition, each there in full or not at all."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clipsr._files import open_atomically
from clipsr.cli._classify import parquet
from clipsr.cli._classify.records import Record

_SETTINGS = "_run.json"  # readers of Parquet folders pass over what begins with an underscore
_WORDS = {"model": "by another model", "question": "with other labels or options", "input": "on another input"}


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Where a run keeps its results; what is in it is all that a run knows of an earlier one."""

    path: Path

    def begin(self, settings: Mapping[str, str], *, is_restarted: bool) -> None:
        """Make the folder, or check that the run that it holds is this one.

        Args:
            settings: model, question and input; what must be the same for results to stand beside each other.
            is_restarted: removes what an earlier run wrote.

        Raises:
            click.UsageError: it holds something else.
            OSError: it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / _SETTINGS
        if not file.exists():
            if any(self.path.iterdir()):
                raise click.UsageError(f"{str(self.path)!r} holds other files: choose an empty or a new folder.")
        elif is_restarted:
            for part in self.path.glob("part-*.parquet"):
                part.unlink()
        else:
            before = json.loads(file.read_text(encoding="utf-8"))
            changed = [words for key, words in _WORDS.items() if before[key] != settings[key]]
            if changed:
                raise click.UsageError(
                    f"{str(self.path)!r} was begun {' and '.join(changed)}: choose another --output, or replace it "
                    f"with --restart."
                )
        for attempts in self.path.glob("_attempts-*"):
            attempts.unlink()
        with open_atomically(file) as begun:
            begun.write(json.dumps(settings).encode())

    def start(self, number: int) -> int:
        """Return which attempt at a partition begins, from 1; its results end the count.

        Raises:
            OSError: it cannot be written.
        """
        with self._attempts(number).open("ab") as file:
            file.write(b".")
            return file.tell()

    def write(self, number: int, records: Iterable[Record]) -> None:
        """Write the results of a partition.

        Raises:
            OSError: it cannot be written.
        """
        with open_atomically(self._part(number), is_durable=True) as file:
            parquet.write(file, records)
        self._attempts(number).unlink(missing_ok=True)

    def count_failed(self, number: int) -> int | None:
        """Return how many images of a partition failed; None where it is not done."""
        if not self._part(number).exists():
            return None
        reader: Any = importlib.import_module("pyarrow.parquet")
        statuses: Sequence[str] = reader.read_table(self._part(number), columns=["status"])["status"].to_pylist()
        return sum(status != "OK" for status in statuses)

    def _attempts(self, number: int) -> Path:
        return self.path / f"_attempts-{number:06}"

    def _part(self, number: int) -> Path:
        return self.path / f"part-{number:06}.parquet"
