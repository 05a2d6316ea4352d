"""Replaces a model repository in one step: what serves from it sees the old one or the new one, never a mix.

A change is made in a copy beside the repository, on its file system; then the two change places by renaming. Between
the two renames the old repository lies at `.NAME.before`: a process that is killed there leaves it for the next export,
which puts it back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from clipsr_export._errors import ExportError

# Graphs are shared with the copy, not written again; anything smaller may be changed in place, and so is copied.
_LINKED_BYTES = 1 << 20

# Folders of exports in progress, beside what they will replace: inside a repository, Triton would take them for models.
_STAGING_PREFIX = ".clipsr-export-"

# A full disk or quota, a file beyond the limit of the file system or the process, a broken disk.
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

Ignore = Callable[[str, list[str]], set[str]]


def check_output(repository: Path) -> None:
    """Make sure that a repository can be written, before minutes are spent on its content.

    Raises:
        ExportError: a part of the path is a file, or a folder that can't be written; one sentence.
    """
    repository = repository.resolve()
    require_folder(repository)
    if repository.is_mount():
        raise ExportError(
            f"{repository} is a mount point, which can't be replaced in one step; name a folder inside it"
        )
    try:
        repository.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=repository.parent):
            pass
    except OSError as error:
        raise ExportError(f"{repository} can't be written: {error.strerror or error}") from error
    before = _before(repository)
    if before.exists() and not repository.exists():
        before.rename(repository)


def require_folder(path: Path) -> None:
    """Make sure that a folder is or can be made at a path; ExportError names the file that is in the way."""
    existing = next(part for part in (path, *path.absolute().parents) if part.exists())
    if not existing.is_dir():
        raise ExportError(f"{existing} is a file; name a folder")


@contextlib.contextmanager
def named_when_unwritable(output: Path) -> Generator[None]:
    """Name the output where there is no room for it: the libraries that write graphs say the reason alone.

    Raises:
        ExportError: a file can't be written, for instance on a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ExportError(f"{output} can't be written: {os.strerror(error.errno)}") from error


@contextlib.contextmanager
def staging_folder(parent: Path) -> Generator[Path]:
    """Make a folder for the files of an export until they are complete; it is removed in any case.

    Folders that killed exports left in `parent` are removed first. A lock, which the system drops with its process,
    tells them from those in use; a file system without locks keeps them.
    """
    for left in parent.glob(f"{_STAGING_PREFIX}*"):
        _remove_unused(left)
    folder, descriptor = _make_locked(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_unused(folder: Path) -> None:
    with contextlib.suppress(OSError):  # in use, removed by another process, or another user's
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        finally:
            os.close(descriptor)


def _make_locked(parent: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=parent))
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)  # taken for a leftover before it was locked


@contextlib.contextmanager
def replaced(repository: Path, *, ignore: Ignore | None = None) -> Generator[Path]:
    """Give a copy of a repository to change; it takes the repository's place when the block ends without an error.

    Args:
        repository: need not exist; then the copy is empty.
        ignore: what is not copied, as for `shutil.copytree`.

    Raises:
        ExportError: it, or a file in it, can't be written, for instance on a full disk; the repository is as it was.
    """
    repository = repository.resolve()
    check_output(repository)
    with staging_folder(repository.parent) as folder:
        staging = folder / repository.name
        if repository.exists():
            shutil.copytree(repository, staging, ignore=ignore, copy_function=_share)
        else:
            staging.mkdir()
        with named_when_unwritable(repository):
            yield staging
        _switch(staging, repository)


def _share(source: str, target: str) -> None:
    """Copy a file; one that is large and never changed in place gets a second name instead, where that is possible."""
    if Path(source).stat().st_size >= _LINKED_BYTES:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _switch(staging: Path, repository: Path) -> None:
    before = _before(repository)
    shutil.rmtree(before, ignore_errors=True)
    if repository.exists():
        repository.rename(before)
    try:
        staging.rename(repository)
    except BaseException:
        if before.exists():
            before.rename(repository)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _before(repository: Path) -> Path:
    return repository.with_name(f".{repository.name}.before")
