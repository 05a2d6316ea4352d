"""The bar that shows how far a run over many images is, on standard error."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from clipsr.cli._inputs import walk_images


class _RateColumn(ProgressColumn):
    """Images a second, of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} images/s", style="progress.data.speed")


def make_progress(*, prints_lines: bool = False, is_single: bool = False) -> Progress:
    """Return a bar with rate and remaining time on standard error, shown on a terminal.

    Args:
        prints_lines: whether lines on standard output come meanwhile; on the same terminal they go above the bar.
        is_single: whether there is but one image, for which no bar is shown.
    """
    is_shown = sys.stderr.isatty() and not is_single
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=prints_lines and is_shown and sys.stdout.isatty(),
        disable=not is_shown,
    )


def count_beside(progress: Progress, task: TaskID, paths: Sequence[str]) -> None:
    """Find out how many images there are, beside the work; the bar shows what remains once this is known."""
    if progress.disable:
        return

    def count() -> None:
        with contextlib.suppress(click.UsageError):  # what vanished meanwhile is reported by the work itself
            progress.update(task, total=sum(1 for _ in walk_images(paths)))

    threading.Thread(target=count, daemon=True).start()
