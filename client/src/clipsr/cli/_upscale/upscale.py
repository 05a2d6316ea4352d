"""What `clipsr-client upscale` does once its options are understood."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass

import click

from clipsr import (
    Client,
    DeadlineError,
    FailedImage,
    InvalidRequestError,
    ServiceError,
    UpscaledImage,
    UpscaleFormat,
    UpscaleRecipe,
)
from clipsr._display.text import escape_controls
from clipsr._files import describe_unwritable, write_atomically
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._inputs import check_paths, no_image, read_item, report_left_out, walk_images
from clipsr.cli._progress import make_progress
from clipsr.cli._upscale.outputs import STDOUT, Job, plan_outputs

_SIZE = re.compile(r"([0-9]{1,9})[xX×]([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True, slots=True)
class UpscaleOptions:
    """What to make of each image.

    Attributes:
        scale: factor on width and height; None where size_hw says it.
        size_hw: rows and columns of the output; None where scale says it.
        output_format: the kind of all files of a folder, or of standard output; None goes by their endings.
        recipe: how; one that the service offers.
        is_forced: whether files that exist are replaced.
    """

    scale: float | None
    size_hw: tuple[int, int] | None
    output_format: UpscaleFormat | None
    recipe: UpscaleRecipe
    is_forced: bool


def parse_size(text: str) -> tuple[int, int]:
    """Return rows and columns of WIDTHxHEIGHT.

    Raises:
        click.BadParameter: it is written otherwise, or a side is 0.
    """
    match = _SIZE.fullmatch(text.strip())
    size_hw = (int(match[2]), int(match[1])) if match else (0, 0)
    if 0 in size_hw:
        raise click.BadParameter(f"{text!r} is not WIDTHxHEIGHT in pixels: write it as 512x384.")
    return size_hw


def upscale_images(client: Client, source: str, target: str, options: UpscaleOptions) -> ExitCode:
    """Upscale one image or a folder of them, print where each went, and return how it ended.

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
    jobs = plan_outputs(items, source, target, output_format=options.output_format, is_forced=options.is_forced)
    max_bytes = client.model_info().limits.max_image_bytes
    session = _Session(client, options)
    with make_progress(prints_lines=True, is_single=len(jobs) == 1) as progress:
        task = progress.add_task("upscaling", total=len(jobs))
        for job in jobs:
            session.run(job, read_item(job.item, max_bytes=max_bytes))
            progress.advance(task)
    if len(jobs) > 1:
        failed = f", {session.failed} failed" if session.failed else ""
        _say(f"\n{len(jobs)} images: {len(jobs) - session.failed} upscaled{failed}")
    if session.is_output_failing:
        return ExitCode.OUTPUT_FAILED
    return ExitCode.SOME_FAILED if session.failed else ExitCode.OK


class _Session:
    """Upscales one image after another, counts those that failed, and keeps whether an output could not be written."""

    def __init__(self, client: Client, options: UpscaleOptions) -> None:
        self.failed = 0
        self.is_output_failing = False
        self._client = client
        self._options = options
        self._has_answer = False

    def run(self, job: Job, content: bytes | FailedImage) -> None:
        """Upscale one image that was read, and print the outcome."""
        outcome = self._ask(content, job.output_format) if isinstance(content, bytes) else content
        if isinstance(outcome, UpscaledImage):
            outcome = self._write(job, outcome)
        if isinstance(outcome, FailedImage):
            self.failed += 1
            report(escape_controls(f"{job.item.path}: {outcome.code}: {outcome.message}"))

    def _ask(self, content: bytes, output_format: UpscaleFormat) -> UpscaledImage | FailedImage:
        options = self._options
        try:
            answer = self._client.upscale(
                content,
                scale=options.scale,
                size_hw=options.size_hw,
                output_format=output_format,
                recipe=options.recipe,
            )
        except InvalidRequestError as error:
            return FailedImage(code="INVALID_ARGUMENT", reason=error.reason, message=str(error))
        except DeadlineError as error:
            if not self._has_answer:  # nothing suggests that the next image would be faster
                raise
            return FailedImage(code="DEADLINE_EXCEEDED", reason="", message=f"{error} (--timeout)")
        except ServiceError as error:
            return FailedImage(code=error.code, reason=error.reason, message=str(error))
        self._has_answer = True
        return answer

    def _write(self, job: Job, answer: UpscaledImage) -> FailedImage | None:
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
        (height, width), (rows, columns) = answer.input_hw, answer.output_hw
        _say(escape_controls(f"{job.item.path} -> {job.output}  {width} x {height} -> {columns} x {rows}"))
        return None


def _say(line: str) -> None:
    print(line, flush=True)
