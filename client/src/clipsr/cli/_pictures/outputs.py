"""Where pictures are written: planned as a whole, before the first image is sent, so that nothing is overwritten."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from clipsr import FailedImage, UpscaleFormat
from clipsr._formats import ENDING_OF_OUTPUT, OUTPUT_OF_ENDING
from clipsr.cli._inputs import STDIN, Item

STDOUT = Path("/dev/stdout")
"""The output of `-`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One image to send.

    Attributes:
        item: what is read; its failure says why there is nothing to do.
        output: what is written.
        output_format: the kind of file.
    """

    item: Item
    output: Path
    output_format: UpscaleFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacement:
    """Whether files that exist are replaced.

    Attributes:
        option: how the command line calls it.
        is_given: whether it is asked for.
    """

    option: str
    is_given: bool


def plan_outputs(
    items: Sequence[Item],
    source: str,
    target: str,
    *,
    output_format: UpscaleFormat | None,
    replacement: Replacement,
) -> list[Job]:
    """Decide for each image where it goes.

    Images of a folder keep their names and subfolders. What is wrong with one of them becomes its failure.

    Args:
        items: what walk_images() found.
        source: IN of the command line.
        target: OUT of the command line; "-" is standard output.
        output_format: the kind of all files of a folder, or of standard output; None goes by their endings.
        replacement: whether files that exist are replaced.

    Raises:
        click.UsageError: IN is one image, and OUT cannot be used for it.
    """
    is_folder = Path(source).is_dir()
    if target == STDIN:
        return [_plan_stdout(items[0], output_format, is_folder=is_folder)]
    if is_folder:
        if Path(target).exists() and not Path(target).is_dir():
            raise click.UsageError(f"{target!r} is a file, and {source!r} is a folder: name a folder to write into.")
        outputs = [Path(target, Path(item.path).relative_to(source)) for item in items]
    else:
        outputs = [_output_of_one(source, target)]
        if output_format is not None and not Path(target).is_dir():
            raise click.UsageError("--format is for folders and for -: the ending of OUT decides what is written.")
    jobs = [_plan_job(item, output, output_format) for item, output in zip(items, outputs, strict=True)]
    jobs = _protect(jobs, replacement)
    if not is_folder and (failure := jobs[0].item.failure) is not None:
        raise click.UsageError(failure.message)
    return jobs


def _plan_stdout(item: Item, output_format: UpscaleFormat | None, *, is_folder: bool) -> Job:
    if is_folder:
        raise click.UsageError("Standard output (-) takes one image: name a folder to write into.")
    if output_format is None:
        raise click.UsageError("Standard output (-) has no ending: say what is written by --format.")
    if sys.stdout.isatty():
        raise click.UsageError("Standard output (-) is a terminal: redirect it into a file or a pipe.")
    return Job(item=item, output=STDOUT, output_format=output_format)


def _output_of_one(source: str, target: str) -> Path:
    path = Path(target)
    if path.is_dir():
        if source == STDIN:
            raise click.UsageError(f"{target!r} is a folder, and standard input has no name: name a file to write.")
        return path / Path(source).name
    if not path.parent.is_dir():
        raise click.UsageError(f"There is no folder {str(path.parent)!r} to write into: make it, or correct OUT.")
    return path


def _plan_job(item: Item, output: Path, output_format: UpscaleFormat | None) -> Job:
    if item.failure is not None:
        return Job(item=item, output=output, output_format="png")
    if output_format is not None:
        ending = output.suffix
        if OUTPUT_OF_ENDING.get(ending.lower()) != output_format:
            output = output.with_suffix(ENDING_OF_OUTPUT[output_format])
        return Job(item=item, output=output, output_format=output_format)
    found = OUTPUT_OF_ENDING.get(output.suffix.lower())
    if found is None:
        known = ", ".join(ending.removeprefix(".") for ending in sorted(OUTPUT_OF_ENDING))
        message = f"{str(output)!r} does not end in {known}: use one of these, or --format for a folder."
        item = replace(item, failure=_refuse("INVALID_ARGUMENT", message))
    return Job(item=item, output=output, output_format=found or "png")


def _protect(jobs: Sequence[Job], replacement: Replacement) -> list[Job]:
    """Refuse outputs that are inputs, that another image has taken, or that exist."""
    inputs = {_identify(Path(job.item.path)) for job in jobs if job.item.path != STDIN}
    taken: set[Path] = set()
    checked: list[Job] = []
    for job in jobs:
        output = _identify(job.output)
        failure = job.item.failure
        if failure is None and output in inputs:
            message = f"{str(job.output)!r} is an input and is never overwritten: choose another OUT."
            failure = _refuse("INVALID_ARGUMENT", message)
        elif failure is None and output in taken:
            message = f"{str(job.output)!r} is written for another image already: rename one of the two."
            failure = _refuse("ALREADY_EXISTS", message)
        elif failure is None and job.output.exists() and not replacement.is_given:
            message = f"{str(job.output)!r} exists: remove it, or give {replacement.option} to replace it."
            failure = _refuse("ALREADY_EXISTS", message)
        taken.add(output)
        checked.append(replace(job, item=replace(job.item, failure=failure)))
    return checked


def _identify(path: Path) -> Path:
    """Return the path that all names of a file have in common; it need not exist."""
    return Path(os.path.realpath(path))


def _refuse(code: str, message: str) -> FailedImage:
    return FailedImage(code=code, reason="", message=message)
