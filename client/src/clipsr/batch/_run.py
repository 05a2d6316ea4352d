"""`clipsr-batch classify`: the partitions that are not done, each by a worker, into the output folder."""

from __future__ import annotations

import importlib
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import click

from clipsr._errors import ClipsrError
from clipsr._files import describe_unwritable
from clipsr._types import Classification, ClassifyOptions
from clipsr.batch._cluster import Workers, run_in_workers
from clipsr.batch._models import ModelFacts, Models, OpenModels
from clipsr.batch._output import OutputFolder
from clipsr.batch._partitions import Partition, fingerprint
from clipsr.cli._classify.records import make_record
from clipsr.cli._exits import ExitCode, describe_error, report
from clipsr.cli._progress import make_progress

# Of one partition in a run; a worker that is lost more often is lost by its images.
_MAX_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What every worker needs to know.

    Attributes:
        models: that answer.
        facts: what they were when the run began.
        options: what is asked about every image.
        output: where results go.
    """

    models: Models
    facts: ModelFacts
    options: ClassifyOptions
    output: OutputFolder

    def settings(self, partitions: Sequence[Partition]) -> Mapping[str, str]:
        """Return what must be the same for results to stand in one folder."""
        question = json.dumps(asdict(self.options)).encode()
        return {
            "model": self.facts.digest,
            "question": sha256(question).hexdigest(),
            "input": fingerprint(partitions),
        }


def run(job: Job, partitions: Sequence[Partition], workers: Workers, *, retries_failed: bool) -> ExitCode:
    """Do what is not done, and say what there is then.

    Args:
        job: what to do; its output folder is begun.
        partitions: all of the input.
        workers: that do it.
        retries_failed: whether partitions with images that failed are done again.

    Raises:
        ClusterError: Ray could not finish.
    """
    failed = [job.output.count_failed(number) for number in range(len(partitions))]
    missing = [number for number, count in enumerate(failed) if count is None or (retries_failed and count)]
    sizes = [len(partition.names()) for partition in partitions]
    total, todo = sum(sizes), sum(sizes[number] for number in missing)
    if todo < total:
        report(f"resuming after {total - todo:,} images that are done")
    tasks = [{"number": number, "partition": pickle.dumps(partitions[number])} for number in missing]
    with make_progress() as progress:
        bar = progress.add_task("classifying", total=total, completed=total - todo)
        for row in run_in_workers(tasks, _Worker, {"job": job}, workers):
            if row["error"]:
                report(f"{row['error']}\nWhat is done stays done; the same command resumes.")
                return ExitCode(row["code"])
            number: int = row["number"]
            failed[number] = row["failed"]
            progress.advance(bar, sizes[number])
    return _report_end(job.output, total, sum(filter(None, failed)))


def _report_end(output: OutputFolder, total: int, n_failed: int) -> ExitCode:
    rest = f", {n_failed:,} failed" if n_failed else ""
    print(f"{total:,} images: {total - n_failed:,} classified{rest}; {output.path}", flush=True)
    if not n_failed:
        return ExitCode.OK
    report("the same command with --retry-failed does the partitions of failed images again")
    return ExitCode.SOME_FAILED


class _Worker:
    """Does one partition after the other with the same models."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._models: OpenModels | None = None

    def __call__(self, task: Any) -> Any:
        """Do a partition; a failure of all of it is part of the answer, as Ray would wrap it."""
        [row] = task.to_pylist()
        answer: dict[str, Any] = {"number": row["number"], "failed": 0, "error": "", "code": 0}
        try:
            answer["failed"] = self._classify(row["number"], pickle.loads(row["partition"]))
        except ClipsrError as error:
            answer["code"], answer["error"] = describe_error(error)
        except OSError as error:
            answer["code"] = ExitCode.OUTPUT_FAILED
            answer["error"] = describe_unwritable(self._job.output.path, error)
        except click.UsageError as error:
            answer["code"], answer["error"] = ExitCode.USAGE, error.format_message()
        arrow: Any = importlib.import_module("pyarrow")
        return arrow.Table.from_pylist([{**answer, "code": int(answer["code"])}])

    def _classify(self, number: int, partition: Partition) -> int:
        """Write the results of a partition; return how many of its images failed."""
        if self._job.output.start(number) > _MAX_ATTEMPTS:
            first, last = partition.names()[0], partition.names()[-1]
            raise ClipsrError(f"An image between {first!r} and {last!r} ends the process that works on it.")
        if self._models is None:
            self._models = self._job.models.open()
        facts = self._job.facts
        outcomes = self._models.classify(partition.read(max_bytes=facts.max_image_bytes), self._job.options)
        classified = [outcome for outcome in outcomes if isinstance(outcome, Classification)]
        for digest in {outcome.model_digest for outcome in classified} - {facts.digest}:
            raise click.UsageError(f"Another model answers now ({digest}); the run began with {facts.digest}.")
        self._job.output.write(number, map(make_record, partition.names(), outcomes))
        return len(outcomes) - len(classified)
