"""`clipsr-client classify --output`: any number of images, resumable, into one file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress, TaskID

from clipsr import Classification, Client, ClipsrError, FailedImage, Fit, ModelInfo, Route
from clipsr.cli._classify.journal import Journal, JournalError
from clipsr.cli._classify.labels import LabelSpace
from clipsr.cli._classify.records import check_output, make_record, write_output
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._inputs import Item, check_paths, no_image, read_item, walk_images
from clipsr.cli._progress import count_beside, make_progress


@dataclass(frozen=True, kw_only=True, slots=True)
class BulkOptions:
    """What to ask for and where to write it.

    Attributes:
        label_space: the labels or their set, and the templates.
        top_k: predictions an image; 0 for all labels.
        fit: how images that are not square are fitted.
        route: the path to the image encoder.
        min_cosine: threshold of "none of these".
        min_probability: threshold of "none of these".
        has_embeddings: whether embeddings are asked for.
        read_ahead: images under way at once.
        output: the file to write.
        is_restarted: whether a journal that is there is thrown away.
    """

    label_space: LabelSpace
    top_k: int
    fit: Fit
    route: Route
    min_cosine: float | None
    min_probability: float | None
    has_embeddings: bool
    read_ahead: int
    output: Path
    is_restarted: bool


def classify_in_bulk(client: Client, paths: Sequence[str], options: BulkOptions) -> ExitCode:
    """Classify what the paths name, going on where an earlier run was interrupted, and write the output at the end.

    Raises:
        click.UsageError: paths or options cannot be used, or do not fit the earlier run.
        ClipsrError: the service could not be asked; what is done stays done.
    """
    check_output(options.output, has_embeddings=options.has_embeddings)
    check_paths(paths)
    journal_path = options.output.with_name(options.output.name + ".journal")
    if options.output.exists() and not journal_path.exists() and not options.is_restarted:
        raise click.UsageError(
            f"{str(options.output)!r} is there already and finished: choose another --output, or replace it with "
            f"--restart."
        )
    info = client.model_info()
    try:
        settings = _settings(options, info)
        journal = Journal(journal_path, settings, folder=Path.cwd(), is_restarted=options.is_restarted)
    except JournalError as error:
        return _refuse(error)
    try:
        return _Run(client, paths, options, info, journal).run()
    except JournalError as error:
        return _refuse(error)
    finally:
        journal.close()


def _refuse(error: JournalError) -> ExitCode:
    report(str(error))
    return ExitCode.OUTPUT_FAILED if error.is_output else ExitCode.USAGE


def _settings(options: BulkOptions, info: ModelInfo) -> Mapping[str, Any]:
    """Return what must be the same for results to stand in one file."""
    space = options.label_space
    labels = space.labels or info.label_sets.get(space.label_set, (f"@{space.label_set}",))
    templates = space.templates or (info.default_templates,)
    if templates[0].startswith("@"):
        templates = info.template_sets.get(templates[0].removeprefix("@"), templates)
    return {
        "model": info.digest,
        "labels": sha256(json.dumps(labels).encode()).hexdigest(),
        "templates": sha256(json.dumps(templates).encode()).hexdigest(),
        "top_k": options.top_k,
        "fit": options.fit,
        "route": options.route,
        "min_cosine": options.min_cosine,
        "min_probability": options.min_probability,
        "embeddings": options.has_embeddings,
    }


class _Run:
    """One run, from the first image that is not done to the output."""

    def __init__(
        self, client: Client, paths: Sequence[str], options: BulkOptions, info: ModelInfo, journal: Journal
    ) -> None:
        self._client = client
        self._paths = paths
        self._options = options
        self._info = info
        self._journal = journal
        self._under_way: dict[int, tuple[Item, int]] = {}  # the stream's index: the image, its place in the walk

    def run(self) -> ExitCode:
        resumed = len(self._journal)
        if resumed:
            report(f"going on after {resumed:,} images that are done")
        with make_progress() as progress:
            task = progress.add_task("classifying", total=None, completed=resumed)
            count_beside(progress, task, self._paths)
            try:
                self._classify(progress, task)
            except (ClipsrError, KeyboardInterrupt):
                report(f"{len(self._journal):,} images are done; the same command goes on from there")
                raise
        if not len(self._journal):
            self._journal.remove()
            raise no_image(self._paths)
        self._finish()
        return self._summarize()

    def _classify(self, progress: Progress, task: TaskID) -> None:
        options, space = self._options, self._options.label_space
        outcomes = self._client.classify_stream(
            self._read(),
            space.labels,
            label_set=space.label_set,
            templates=space.templates,
            top_k=options.top_k,
            fit=options.fit,
            route=options.route,
            min_cosine=options.min_cosine,
            min_probability=options.min_probability,
            return_embedding=options.has_embeddings,
            read_ahead=options.read_ahead,
        )
        for index, outcome in outcomes:
            item, place = self._under_way.pop(index)
            self._check_model(outcome)
            self._journal.append(make_record(item.path, outcome), place=place)
            progress.advance(task)

    def _read(self) -> Iterator[bytes | FailedImage]:
        """Yield what is not done; in the stream's own thread."""
        index = 0
        for place, item in enumerate(walk_images(self._paths)):
            if self._journal.claim(item.path):
                self._under_way[index] = item, place
                index += 1
                yield read_item(item, max_bytes=self._info.limits.max_image_bytes)

    def _check_model(self, outcome: Classification | FailedImage) -> None:
        if isinstance(outcome, Classification) and outcome.model_digest != self._info.digest:
            raise JournalError(
                f"The service answers with another model now ({outcome.model_digest}); the run began with "
                f"{self._info.digest}. Choose another --output, or begin again with --restart."
            )

    def _finish(self) -> None:
        try:
            write_output(self._options.output, self._journal.records())
        except OSError as error:
            cause = error.strerror or str(error)
            raise JournalError(
                f"{str(self._options.output)!r} could not be written: {cause}. All {len(self._journal):,} images "
                f"are done and in the journal; make room, and the same command writes the file.",
                is_output=True,
            ) from error
        self._journal.remove()

    def _summarize(self) -> ExitCode:
        total, failed = len(self._journal), self._journal.failed
        rest = f", {failed:,} failed" if failed else ""
        print(f"{total:,} images: {total - failed:,} classified{rest}; {os.fspath(self._options.output)}", flush=True)
        return ExitCode.SOME_FAILED if failed else ExitCode.OK
