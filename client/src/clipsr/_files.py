"""Files that are written in full or not at all, and what to say when one cannot be written."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, TextIO

_DESCRIPTORS = re.compile(r"/dev/fd|/proc/[^/]+(/task/\d+)?/fd")
"""Folders of a process's open files: what stands in one is written to, and never replaced, whatever it leads to."""

_CAUSES = {
    errno.ENOSPC: "there is no room left; make room, or choose another disk",
    errno.EDQUOT: "the quota is used up; make room, or choose another disk",
    errno.EFBIG: "the file would be larger than this disk or the system's limit allows; choose another disk",
    errno.ENAMETOOLONG: "its name is too long; choose a shorter one",
    errno.EACCES: "it may not be written; check the permissions of the file and its folder",
    errno.EPERM: "it may not be written; check the permissions of the file and its folder",
    errno.EROFS: "its disk is read-only; choose another one",
    errno.ENOENT: "its folder does not exist, or it is closed; make the folder, or choose another one",
    errno.ENOTDIR: "its folder is a file; choose another one",
    errno.EISDIR: "it is a folder; name a file",
    errno.ELOOP: "its link leads back to itself; remove the link",
    errno.EPIPE: "its reader has closed it",
    errno.EBADF: "it is closed",
}


@contextlib.contextmanager
def open_atomically(path: Path, *, is_durable: bool = False) -> Generator[BinaryIO, None, None]:
    """Open a binary file whose content appears at `path` when the block ends, and not at all if it raises.

    A file that exists keeps its permissions. Of a symbolic link, the file that it leads to is replaced. Only regular
    files are replaced: pipes, devices and descriptors such as /dev/stdout are written to as the block goes along.

    Args:
        path: what to write; its folder must exist.
        is_durable: waits until the disk has it.

    Raises:
        OSError: it cannot be written; describe_unwritable() says why.
    """
    try:
        mode = path.stat().st_mode  # raises for a name too long and a link to itself, unlike exists()
    except FileNotFoundError:
        mode = None
    if _is_descriptor(path) or not (mode is None or stat.S_ISREG(mode)):
        with path.open("ab") as file:  # appends, as `>> out` asks of /dev/stdout
            yield file
        return
    target = Path(os.path.realpath(path))
    part = target.parent / f".{os.getpid()}-{secrets.token_hex(4)}.part"  # short: the path's own name may be at a limit
    try:
        with part.open("xb") as file:
            if mode is not None:
                part.chmod(stat.S_IMODE(mode))
            yield file
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


@contextlib.contextmanager
def open_text_atomically(path: Path, *, is_durable: bool = False) -> Generator[TextIO, None, None]:
    r"""Open a text file as open_atomically() does a binary one.

    It is UTF-8 with line ends as they are given; half a surrogate pair, as in the names of files that are not UTF-8, is
    written as an escape such as \udcff.
    """
    with open_atomically(path, is_durable=is_durable) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="")
        try:
            yield text
            text.flush()
        finally:
            with contextlib.suppress(ValueError, OSError):
                text.detach()  # or its end would close the file, whose room may still be needed


def write_atomically(path: Path, content: bytes, *, is_durable: bool = False) -> None:
    """Write a file as open_atomically() does."""
    with open_atomically(path, is_durable=is_durable) as file:
        file.write(content)


def describe_unwritable(path: Path | str, error: OSError) -> str:
    """Return a sentence that says why `path` was not written and what to do."""
    cause = _CAUSES.get(error.errno or 0) or error.strerror or str(error)
    return f"{str(path)!r} could not be written: {cause}."


def _is_descriptor(path: Path) -> bool:
    """Return whether a path, or one of the links on its way, names an open file of a process."""
    link = path.absolute()
    while True:
        folder = os.path.realpath(link.parent)
        if _DESCRIPTORS.fullmatch(folder):
            return True
        if not link.is_symlink():
            return False
        link = Path(folder, link.readlink())
