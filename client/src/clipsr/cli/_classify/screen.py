"""`clipsr-client classify`: outcomes on standard output, in the order of the images."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Protocol

from rich.console import Console

from clipsr import Client, FailedImage, ModelInfo
from clipsr.cli._classify.records import RecordWriter
from clipsr.cli._classify.stream import Job, Outcome, classify_into
from clipsr.cli._classify.table import TableWriter, plan_layout
from clipsr.cli._exits import ExitCode
from clipsr.cli._inputs import check_paths, no_image, walk_images

_HELD = 1_024  # outcomes that wait for one before them; the walk stops there, so memory is bounded


class _Writer(Protocol):
    def write(self, path: str, outcome: Outcome) -> None: ...
    def finish(self) -> None: ...


def classify_to_screen(client: Client, job: Job, *, output_format: str, is_csv_safe: bool) -> ExitCode:
    """Classify images and print each outcome as soon as its turn has come.

    Raises:
        click.UsageError: a path cannot be used.
        ClipsrError: the service could not be asked, or refused the request as a whole.
    """
    check_paths(job.paths, takes_stdin=True)
    info = client.model_info()  # its limits bound what is read, its label sets the table's columns

    def make_writer() -> _Writer:
        if output_format == "table":
            return _make_table(job, info)
        return RecordWriter(sys.stdout, is_json=output_format == "json", is_csv_safe=is_csv_safe)

    screen = Screen(make_writer, held=max(_HELD, job.read_ahead))
    classify_into(screen, client, job, info)
    if not screen.finish():
        raise no_image(job.paths)
    return ExitCode.SOME_FAILED if screen.has_failed else ExitCode.OK


class Screen:
    """A sink that puts outcomes back into the order of their images.

    Args:
        make_writer: called before the first outcome is written, so that a refused request leaves the output empty.
        held: images that may be claimed and not yet written.
    """

    def __init__(self, make_writer: Callable[[], _Writer], *, held: int) -> None:
        self.has_failed = False
        self._make_writer = make_writer
        self._writer: _Writer | None = None
        self._room = threading.Semaphore(held)
        self._waiting: dict[int, tuple[str, Outcome]] = {}
        self._next = 0

    def claim(self, path: str, place: int) -> bool:
        """Wait for room."""
        self._room.acquire()
        return True

    def put(self, index: int, path: str, outcome: Outcome) -> None:
        """Write all outcomes whose turn has come."""
        self._waiting[index] = path, outcome
        while (turn := self._waiting.pop(self._next, None)) is not None:
            self._next += 1
            self._writer = self._writer or self._make_writer()
            self._writer.write(*turn)
            self.has_failed |= isinstance(turn[1], FailedImage)
            self._room.release()

    def finish(self) -> bool:
        """Write what comes after the last outcome; return whether there was any."""
        if self._writer is not None:
            self._writer.finish()
        return self._writer is not None


def _make_table(job: Job, info: ModelInfo) -> TableWriter:
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False)
    labels = job.options.labels or info.label_sets.get(job.options.label_set, ())
    width = console.width if sys.stdout.isatty() else None
    paths = (item.path for item in walk_images(job.paths))  # a walk of its own: the columns need all paths
    kinds = info.degradation_kinds if job.options.encoder != "plain" else ()
    writer = TableWriter(console, plan_layout(paths, labels, terminal_width=width, kinds=kinds))
    writer.begin()
    return writer
