"""What `clipsr-client library create`, `delete`, `drop` and `reembed` do once their options are understood."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from clipsr import Client, ClipsrError, ImageChanges
from clipsr.cli._exits import ExitCode, report
from clipsr.cli._library.options import Selection
from clipsr.cli._progress import make_progress


def create_library(client: Client, name: str, *, keep_originals: bool, thumbnail_side_px: int) -> ExitCode:
    """Create a library and say so."""
    created = client.library(name).create(keep_originals=keep_originals, thumbnail_side_px=thumbnail_side_px)
    print(f"library {created.name} is there, for model {created.model_digest}", flush=True)
    return ExitCode.OK


def drop_library(client: Client, name: str, *, is_confirmed: bool) -> ExitCode:
    """Remove a library once the caller has said yes."""
    library = client.library(name)
    if not is_confirmed:
        count = library.info().image_count
        _confirm(f"Remove library {name} with its {count:,} images for good?")
    print(f"library {name} is removed, with {library.drop():,} images", flush=True)
    return ExitCode.OK


def update_images(client: Client, name: str, selection: Selection, changes: ImageChanges) -> ExitCode:
    """Change what is said of images, and say how many changed.

    Raises:
        click.UsageError: nothing changes.
    """
    if changes == ImageChanges():
        raise click.UsageError("Say what to change: see --help.")
    done = client.library(name).update_images(selection.hashes, where=selection.where, changes=changes)
    same = done.matched_count - done.changed_count
    parts = [f"{done.changed_count:,} images changed"]
    parts += [f"{same:,} were like that"] if same else []
    parts += _count_missing(selection.hashes, done.matched_count)
    print(f"{', '.join(parts)}; library {name}", flush=True)
    return ExitCode.OK


def delete_images(client: Client, name: str, selection: Selection, *, is_confirmed: bool) -> ExitCode:
    """Delete images; by a filter once the caller has said yes."""
    library = client.library(name)
    if selection.where is not None:
        count = library.list_page(where=selection.where, page_size=1).total_count
        if count and not is_confirmed:
            _confirm(f"Delete {count:,} images of library {name} for good?")
    deleted = library.delete_images(selection.hashes, where=selection.where)
    parts = [f"{deleted:,} images deleted", *_count_missing(selection.hashes, deleted)]
    print(f"{', '.join(parts)}; library {name}", flush=True)
    return ExitCode.OK


def reembed_library(client: Client, name: str, *, drop_without_original: bool) -> ExitCode:
    """Embed a library with the model that is served, and show how far it is."""
    last = None
    with make_progress() as progress:
        task = progress.add_task("embedding", total=None)
        try:
            for last in client.library(name).reembed(drop_without_original=drop_without_original):
                progress.update(task, completed=last.done_count, total=last.total_count)
        except (ClipsrError, KeyboardInterrupt):
            if last is not None:
                report(f"{last.done_count:,} of {last.total_count:,} images are embedded; the same command resumes")
            raise
    if last is None or last.library is None:
        report("the service ended the work without saying how; the same command resumes it")
        return ExitCode.UNREACHABLE
    dropped = f", {last.dropped_count:,} left out" if last.dropped_count else ""
    print(
        f"{last.done_count:,} images embedded{dropped}; library {name}, model {last.library.model_digest}", flush=True
    )
    return ExitCode.OK


def _count_missing(hashes: Sequence[str], found: int) -> list[str]:
    missing = len(set(hashes)) - found
    return [f"{missing:,} were not there"] if hashes and missing > 0 else []


def _confirm(question: str) -> None:
    """Return if the caller says yes; raise click.UsageError where there is no terminal, click.Abort for a no."""
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask whether this is meant: give --yes.")
    click.confirm(question, abort=True, err=True)
