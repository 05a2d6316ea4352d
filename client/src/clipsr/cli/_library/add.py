"""What `clipsr-client library add` does once its options are understood."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from rich.progress import Progress, TaskID

from clipsr import AddedImage, AlreadyExistsError, Client, ClipsrError, FailedImage, Fit, NewImage, PresentImage, Route
from clipsr._display.text import escape_controls
from clipsr._files import describe_unwritable
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._inputs import check_paths, no_image, read_item, report_left_out, walk_images
from clipsr.cli._library.tables import no_line, read_table
from clipsr.cli._progress import count_beside, make_progress

_Outcome = AddedImage | PresentImage | FailedImage


@dataclass(frozen=True, kw_only=True, slots=True)
class AddOptions:
    """What is said of the images, and how they are added.

    Attributes:
        tags: of every image.
        metadata: of every image.
        fit: how images that are not square are fitted.
        route: the path to the image encoder.
        read_ahead: images under way at once.
        results: a file for the outcome of each image; None writes none.
        is_created: whether the library is created first if there is none.
        is_updating: whether images that are there take the source, tags and values, too.
    """

    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    fit: Fit
    route: Route
    read_ahead: int
    results: Path | None
    is_created: bool
    is_updating: bool


def add_images(
    client: Client, name: str, paths: Sequence[str], options: AddOptions, *, table: Path | None = None
) -> ExitCode:
    """Add what the paths name, or a table, to a library, print the images that failed, and count the others.

    Raises:
        click.UsageError: a path cannot be used.
        ClipsrError: the service could not be asked, or refused the call; what was acknowledged is in the library.
    """
    check_paths(paths)
    max_bytes = client.model_info().limits.max_image_bytes
    if options.is_created:
        with contextlib.suppress(AlreadyExistsError):
            client.library(name).create()
    try:
        with _Results(options.results) as results:
            return _Run(client, name, paths, table, options, max_bytes, results).run()
    except _ResultsError as error:
        report(str(error))
        return ExitCode.OUTPUT_FAILED


class _ResultsError(Exception):
    """The file of --results cannot be written."""


class _Results:
    """The outcome of each image, a JSON object a line, on disk as soon as it is known; nothing without a path.

    Raises:
        _ResultsError: the file cannot be written; by the constructor, or when it is.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        if path is not None:
            try:
                self._file = path.open("w", encoding="utf-8", errors="backslashreplace")
            except OSError as error:
                raise self._unwritable(error) from error

    def __enter__(self) -> _Results:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written was reported by write()
                self._file.close()

    def write(self, record: Mapping[str, str]) -> None:
        """Write one line."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> _ResultsError:
        sentence = describe_unwritable(self._path or Path(), error)
        return _ResultsError(f"{sentence} (--results) The same command then adds the rest.")


class _Run:
    """One run over the images."""

    def __init__(
        self,
        client: Client,
        name: str,
        paths: Sequence[str],
        table: Path | None,
        options: AddOptions,
        max_bytes: int,
        results: _Results,
    ) -> None:
        self._client, self._name, self._options = client, name, options
        self._paths, self._table = paths, table
        self._max_bytes = max_bytes
        self._results = results
        self._under_way: dict[int, str] = {}  # the stream's index: the image's path
        self._left_out: Counter[str] = Counter()
        self._added = self._present = self._different = self._updated = self._failed = 0

    def run(self) -> ExitCode:
        with make_progress() as progress:
            task = progress.add_task("adding", total=None)
            if self._table is None:
                count_beside(progress, task, self._paths)
            try:
                self._add(progress, task)
            except (ClipsrError, KeyboardInterrupt, _ResultsError):
                if done := self._added + self._present + self._updated:
                    report(f"{done:,} images are in the library; the same command adds the rest")
                raise
        report_left_out(self._left_out)
        if self._different:
            report(
                f"{self._different:,} of those there already have other tags or values, or another source, and keep "
                "them: --update gives them these, too"
            )
        counts = {
            "added": self._added,
            "there already": self._present,
            "updated": self._updated,
            "failed": self._failed,
        }
        total = sum(counts.values())
        if not total:
            raise no_image(self._paths) if self._table is None else no_line(self._table)
        parts = [f"{count:,} {what}" for what, count in counts.items() if count or what == "added"]
        print(f"{total:,} images: {', '.join(parts)}; library {self._name}", flush=True)
        return ExitCode.SOME_FAILED if self._failed else ExitCode.OK

    def _add(self, progress: Progress, task: TaskID) -> None:
        options = self._options
        library = self._client.library(self._name)
        outcomes = library.add(
            self._read(),
            fit=options.fit,
            route=options.route,
            update_present=options.is_updating,
            read_ahead=options.read_ahead,
        )
        for index, outcome in outcomes:
            self._take_in(self._under_way.pop(index), outcome)
            progress.advance(task)

    def _read(self) -> Iterator[NewImage | FailedImage]:
        """Yield the images; in the stream's own thread."""
        images = self._walk() if self._table is None else read_table(self._table, max_bytes=self._max_bytes)
        for index, (path, image) in enumerate(images):
            self._under_way[index] = path
            yield image if isinstance(image, FailedImage) else self._describe(image)

    def _walk(self) -> Iterator[tuple[str, NewImage | FailedImage]]:
        for item in walk_images(self._paths, self._left_out):
            content = read_item(item, max_bytes=self._max_bytes)
            source = item.path.encode("utf-8", "backslashreplace").decode("utf-8")
            yield item.path, content if isinstance(content, FailedImage) else NewImage(content=content, source=source)

    def _describe(self, image: NewImage) -> NewImage:
        """Return an image with what the command line says of all of them."""
        tags, metadata = (*image.tags, *self._options.tags), {**image.metadata, **self._options.metadata}
        return replace(image, tags=tags, metadata=metadata)

    def _take_in(self, path: str, outcome: _Outcome) -> None:
        if isinstance(outcome, FailedImage):
            self._failed += 1
            report(escape_controls(f"{path}: {outcome.code}: {outcome.message}"))
        elif isinstance(outcome, PresentImage):
            self._present += not outcome.updated
            self._updated += outcome.updated
            self._different += outcome.differs
        else:
            self._added += 1
        self._results.write(_make_record(path, outcome))


def _make_record(path: str, outcome: _Outcome) -> dict[str, str]:
    """Return what is written of one image; docs/library.md lists the fields."""
    if isinstance(outcome, FailedImage):
        return {"path": path, "status": outcome.code, "reason": outcome.reason, "message": outcome.message}
    if isinstance(outcome, AddedImage):
        status = "ADDED"
    else:
        status = "UPDATED" if outcome.updated else "DIFFERENT" if outcome.differs else "PRESENT"
    return {"path": path, "status": status, "sha256": outcome.sha256}
