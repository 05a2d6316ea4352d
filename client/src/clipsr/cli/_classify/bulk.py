"""`clipsr-client classify --output`: any number of images, resumable, into one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress, TaskID

from clipsr import Classification, ClassifyOptions, Client, ClipsrError, ModelInfo
from clipsr._files import describe_unwritable
from clipsr.cli._classify.journal import Journal, JournalError
from clipsr.cli._classify.output import check_output, write_output
from clipsr.cli._classify.records import make_record
from clipsr.cli._classify.stream import Job, Outcome, classify_into
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._inputs import check_paths, no_image
from clipsr.cli._progress import count_beside, make_progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """The file to write, and what to do with an earlier run.

    Attributes:
        path: of the file.
        is_csv_safe: as CsvWriter's is_safe.
        is_restarted: whether what an earlier run did is thrown away.
        retries_failed: whether the images that failed are classified again.
    """

    path: Path
    is_csv_safe: bool
    is_restarted: bool
    retries_failed: bool


def classify_to_file(client: Client, job: Job, output: Output) -> ExitCode:
    """Classify images, resuming where an earlier run was interrupted, and write the output at the end.

    Raises:
        click.UsageError: paths or options cannot be used, or do not fit the earlier run.
        ClipsrError: the service could not be asked; what is done stays done.
    """
    check_output(output.path, has_embeddings=job.options.return_embedding)
    check_paths(job.paths)
    journal_path = output.path.with_name(output.path.name + ".journal")
    if output.path.exists() and not journal_path.exists() and not output.is_restarted:
        if not output.retries_failed:
            raise _finished(output)
        report(f"{str(output.path)!r} is finished, and no image failed")
        return ExitCode.OK
    info = client.model_info()
    try:
        with Journal(journal_path, is_restarted=output.is_restarted) as journal:
            if journal.is_finished and not output.path.exists():
                journal.clear()  # what it did is gone
            elif journal.is_finished and not output.retries_failed:
                raise _finished(output)
            journal.begin(_settings(job.options, info), retries_failed=output.retries_failed)
            return _Run(client, job, output, info, journal).run()
    except JournalError as error:
        report(str(error))
        return ExitCode.OUTPUT_FAILED if error.is_output else ExitCode.USAGE


def _finished(output: Output) -> click.UsageError:
    return click.UsageError(
        f"{str(output.path)!r} is there already and finished: choose another --output, or replace it with --restart; "
        f"--retry-failed does the images that failed, if any did."
    )


def _settings(options: ClassifyOptions, info: ModelInfo) -> Mapping[str, Any]:
    """Return what must be the same for results to stand in one file."""
    labels = options.labels or info.label_sets.get(options.label_set, (f"@{options.label_set}",))
    templates = options.templates or (info.default_templates,)
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
        "embeddings": options.return_embedding,
        **({"none_of_these": True} if options.none_of_these else {}),
        # None, as in runs from before there was a choice.
        "encoder": None if options.encoder == "plain" else options.encoder,
    }


class _Run:
    """One run, from the first image that is not done to the output."""

    def __init__(self, client: Client, job: Job, output: Output, info: ModelInfo, journal: Journal) -> None:
        self._client, self._job, self._output, self._info, self._journal = client, job, output, info, journal

    def run(self) -> ExitCode:
        resumed = len(self._journal)
        if resumed:
            report(f"resuming after {resumed:,} images that are done")
        with make_progress() as progress:
            task = progress.add_task("classifying", total=None, completed=resumed)
            count_beside(progress, task, self._job.paths)
            try:
                sink = _JournalSink(self._journal, self._info.digest, progress, task)
                classify_into(sink, self._client, self._job, self._info)
            except (ClipsrError, KeyboardInterrupt):
                report(f"{len(self._journal):,} images are done; the same command resumes after them")
                raise
        if not len(self._journal):
            self._journal.remove()
            raise no_image(self._job.paths)
        return self._finish()

    def _finish(self) -> ExitCode:
        """Write the output; the journal stays as long as there are failed images to do again."""
        path, total, failed = self._output.path, len(self._journal), self._journal.count_failed()
        try:
            write_output(path, self._journal.records(), is_csv_safe=self._output.is_csv_safe)
        except OSError as error:
            raise JournalError(
                f"{describe_unwritable(path, error)} All {total:,} images are done and in the journal; then the same "
                f"command writes the file.",
                is_output=True,
            ) from error
        rest = f", {failed:,} failed" if failed else ""
        print(f"{total:,} images: {total - failed:,} classified{rest}; {path}", flush=True)
        if not failed:
            self._journal.remove()
            return ExitCode.OK
        self._journal.finish()
        report("the same command with --retry-failed does the failed images again")
        return ExitCode.SOME_FAILED


class _JournalSink:
    """A sink that writes down every outcome before it counts as done."""

    def __init__(self, journal: Journal, digest: str, progress: Progress, task: TaskID) -> None:
        self._journal, self._digest, self._progress, self._task = journal, digest, progress, task

    def claim(self, path: str, place: int) -> bool:
        return self._journal.claim(path, place=place)

    def put(self, index: int, path: str, outcome: Outcome) -> None:
        if isinstance(outcome, Classification) and outcome.model_digest != self._digest:
            raise JournalError(
                f"The service answers with another model now ({outcome.model_digest}); the run began with "
                f"{self._digest}. Choose another --output, or begin again with --restart."
            )
        self._journal.append(make_record(path, outcome))
        self._progress.advance(self._task)
