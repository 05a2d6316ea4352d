"""The output: a folder with one Parquet file a partition, each there in full or not at all."""

from __future__ import annotations

import importlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click

from clipsr.batch._storage import Storage, join, storage_of
from clipsr.cli._classify import parquet
from clipsr.cli._classify.records import Record

_SETTINGS = "_run.json"  # readers of Parquet folders pass over what begins with an underscore
_PART = re.compile(r"part-(\d+)\.parquet")
_WORDS = {"model": "by another model", "question": "with other labels or options", "input": "on another input"}
_READERS = 16  # parts read at once; over a network each takes a while


@dataclass(frozen=True, slots=True)
class OutputFolder:
    """Where a run keeps its results; what is in it is all that a run knows of an earlier one.

    What it does raises OSError where that cannot be read or written, and StorageUnavailableError where nothing can.

    Attributes:
        path: of the folder: absolute, or s3://bucket/….
    """

    path: str

    def begin(self, settings: Mapping[str, str], *, is_restarted: bool) -> None:
        """Make the folder, or check that the run that it holds is this one.

        Args:
            settings: model, question and input; what must be the same for results to stand beside each other.
            is_restarted: removes what an earlier run wrote.

        Raises:
            click.UsageError: it holds something else.
        """
        self._storage.make_folder(self.path)
        names = self._names()
        if _SETTINGS not in names:
            if any(not name.startswith(".") for name in names):
                raise click.UsageError(f"{self.path!r} holds other files: choose an empty or a new folder.")
            if not self._claim(settings):
                self._check(settings)  # another run was faster
        elif not is_restarted:
            self._check(settings)
        for name in names:
            if name.startswith("_attempts-") or (is_restarted and _PART.fullmatch(name)):
                self._storage.remove(join(self.path, name))
        if is_restarted:
            self._storage.write(join(self.path, _SETTINGS), _dump(settings))

    def _claim(self, settings: Mapping[str, str]) -> bool:
        try:
            self._storage.write(join(self.path, _SETTINGS), _dump(settings), is_new=True)
        except FileExistsError:
            return False
        return True

    def _check(self, settings: Mapping[str, str]) -> None:
        before = json.loads(self._storage.read(join(self.path, _SETTINGS)))
        changed = [words for key, words in _WORDS.items() if before[key] != settings[key]]
        if changed:
            raise click.UsageError(
                f"{self.path!r} was begun {' and '.join(changed)}: choose another --output, or replace it with "
                f"--restart."
            )

    def start(self, number: int) -> int:
        """Return which attempt at a partition begins, from 1; its results end the count."""
        path = self._attempts(number)
        try:
            earlier = self._storage.read(path)
        except FileNotFoundError:
            earlier = b""
        self._storage.write(path, earlier + b".")
        return len(earlier) + 1

    def write(self, number: int, records: Iterable[Record]) -> None:
        """Write the results of a partition."""
        content = io.BytesIO()
        parquet.write(content, records)
        self._storage.write(self._part(number), content.getvalue())
        self._storage.remove(self._attempts(number))

    def count_failed(self) -> dict[int, int]:
        """Return how many images failed of each partition that is done."""
        found = [int(match[1]) for match in map(_PART.fullmatch, self._names()) if match]
        with ThreadPoolExecutor(_READERS) as readers:
            return dict(zip(found, readers.map(self._count_failed, found), strict=True))

    def _count_failed(self, number: int) -> int:
        reader: Any = importlib.import_module("pyarrow.parquet")
        with self._storage.open(self._part(number)) as file:
            statuses: Sequence[str] = reader.read_table(file, columns=["status"])["status"].to_pylist()
        return sum(status != "OK" for status in statuses)

    @property
    def _storage(self) -> Storage:
        return storage_of(self.path)

    def _names(self) -> list[str]:
        return [entry.name for entry in self._storage.list_folder(self.path)]

    def _attempts(self, number: int) -> str:
        return join(self.path, f"_attempts-{number:06}")

    def _part(self, number: int) -> str:
        return join(self.path, f"part-{number:06}.parquet")


def _dump(settings: Mapping[str, str]) -> bytes:
    return json.dumps(settings).encode()
