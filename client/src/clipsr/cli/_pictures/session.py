"""Images that go to the service one by one and come back as files: what `upscale` and `restore` share."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from clipsr import (
    Client,
    DeadlineError,
    FailedImage,
    InvalidRequestError,
    RestoredImage,
    ServiceError,
    UpscaledImage,
    UpscaleFormat,
)
from clipsr._display.text import escape_controls
from clipsr._files import describe_unwritable, write_atomically
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._inputs import check_paths, no_image, read_item, report_left_out, walk_images
from clipsr.cli._pictures.outputs import STDOUT, Job, Replacement, plan_outputs
from clipsr.cli._progress import make_progress

Picture = UpscaledImage | RestoredImage

# What no other image would change.
_SERVICE_LACKS = ("RESTORER_MISSING", "REMOVE_MISSING")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is done to each image.

    Attributes:
        ask: sends an image and the kind of file to return.
        describe: what to print of an answer.
        doing: such as "upscaling".
        done: such as "upscaled".
    """

    ask: Callable[[bytes, UpscaleFormat], Picture]
    describe: Callable[[Picture], str]
    doing: str
    done: str


def process_images(
    client: Client,
    source: str,
    target: str,
    work: Work,
    *,
    output_format: UpscaleFormat | None,
    replacement: Replacement,
) -> ExitCode:
    """Process one image or a folder of them, print where each went, and return how it ended.

    Raises:
        click.UsageError: a path cannot be used.
        ClipsrError: the service could not be asked.
    """
    check_paths([source], takes_stdin=True)
    left_out: Counter[str] = Counter()
    items = list(walk_images([source], left_out))
    report_left_out(left_out)
    if not items:
        raise no_image([source])
    jobs = plan_outputs(items, source, target, output_format=output_format, replacement=replacement)
    max_bytes = client.model_info().limits.max_image_bytes
    session = _Session(work)
    with make_progress(prints_lines=True, is_single=len(jobs) == 1) as progress:
        task = progress.add_task(work.doing, total=len(jobs))
        for job in jobs:
            session.run(job, read_item(job.item, max_bytes=max_bytes))
            progress.advance(task)
    if len(jobs) > 1:
        failed = f", {session.failed} failed" if session.failed else ""
        _say(f"\n{len(jobs)} images: {len(jobs) - session.failed} {work.done}{failed}")
    if session.is_output_failing:
        return ExitCode.OUTPUT_FAILED
    return ExitCode.SOME_FAILED if session.failed else ExitCode.OK


class _Session:
    """Processes one image after another, counts those that failed, and keeps whether an output could not be written."""

    def __init__(self, work: Work) -> None:
        self.failed = 0
        self.is_output_failing = False
        self._work = work
        self._has_answer = False

    def run(self, job: Job, content: bytes | FailedImage) -> None:
        """Process one image that was read, and print the outcome."""
        outcome = self._ask(content, job.output_format) if isinstance(content, bytes) else content
        if not isinstance(outcome, FailedImage):
            outcome = self._write(job, outcome)
        if outcome is not None:
            self.failed += 1
            report(escape_controls(f"{job.item.path}: {outcome.code}: {outcome.message}"))

    def _ask(self, content: bytes, output_format: UpscaleFormat) -> Picture | FailedImage:
        try:
            answer = self._work.ask(content, output_format)
        except InvalidRequestError as error:
            if error.reason in _SERVICE_LACKS:
                raise
            return FailedImage(code="INVALID_ARGUMENT", reason=error.reason, message=str(error))
        except DeadlineError as error:
            if not self._has_answer:  # nothing suggests that the next image would be faster
                raise
            return FailedImage(code="DEADLINE_EXCEEDED", reason="", message=f"{error} (--timeout)")
        except ServiceError as error:
            return FailedImage(code=error.code, reason=error.reason, message=str(error))
        self._has_answer = True
        return answer

    def _write(self, job: Job, answer: Picture) -> FailedImage | None:
        if job.output == STDOUT:
            sys.stdout.buffer.write(answer.content)
            sys.stdout.buffer.flush()
            return None
        try:
            job.output.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(job.output, answer.content)
        except OSError as error:
            self.is_output_failing = True
            code = "PERMISSION_DENIED" if isinstance(error, PermissionError) else "FAILED_PRECONDITION"
            return FailedImage(code=code, reason="", message=describe_unwritable(job.output, error))
        _say(escape_controls(f"{job.item.path} -> {job.output}  {self._work.describe(answer)}"))
        return None


def _say(line: str) -> None:
    print(line, flush=True)
