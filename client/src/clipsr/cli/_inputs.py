"""From the paths of a command line to image files in memory: the one folder walker of all commands."""

from __future__ import annotations

import os
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from clipsr import FailedImage
from clipsr._display.text import escape_controls
from clipsr._formats import IMAGE_ENDINGS
from clipsr._images import describe_unreadable
from clipsr.cli._exits import report

STDIN = "-"

_ARCHIVE_FOLDER = "__MACOSX"  # what macOS adds to archives: no images, though their names end like some
_ENDING_LETTERS = 8  # longer ones are no kind of file but a part of a name
_KINDS_SHOWN = 6
_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One image of the command line.

    Attributes:
        path: as it is printed; "-" is standard input.
        failure: why there is nothing to read, known while searching folders; None for all others.
    """

    path: str
    failure: FailedImage | None = None


def check_paths(paths: Sequence[str], *, takes_stdin: bool = False) -> None:
    """Refuse paths that walk_images() could not begin with.

    Raises:
        click.UsageError: a path does not exist, or standard input cannot be an image.
    """
    for path in paths:
        if path != STDIN:
            _is_folder(path)
        elif not takes_stdin:
            raise click.UsageError("Standard input (-) cannot be read again after an interruption: name files.")
        elif paths.count(STDIN) > 1:
            raise click.UsageError("Standard input (-) can be read only once: give - a single time.")
        elif sys.stdin.isatty():
            raise click.UsageError("Standard input (-) is a terminal: redirect an image file into it.")


def walk_images(paths: Sequence[str], left_out: Counter[str] | None = None) -> Iterator[Item]:
    """Yield the images that the command line names one by one: in its order, a folder's in the order of names.

    Each folder is listed in its turn: memory holds the names of one folder and of those above it. What cannot be listed
    or read is an item of its own and does not affect the others.

    Args:
        paths: what check_paths() accepted.
        left_out: counts what folders hold besides, by kind.
    """
    counts: Counter[str] = Counter() if left_out is None else left_out
    for path in paths:
        if path == STDIN or not _is_folder(path):
            yield Item(path=path)
            continue
        levels: list[Iterator[Item | Path]] = [iter([Path(path)])]
        while levels:
            entry = next(levels[-1], None)
            if entry is None:
                levels.pop()
            elif isinstance(entry, Path):
                levels.append(_list_folder(entry, counts))
            else:
                yield entry


def report_left_out(left_out: Counter[str]) -> None:
    """Print one line on standard error that counts what walk_images() left out, if that is anything."""
    parts = [f"{kind} {count:,}" for kind, count in left_out.most_common(_KINDS_SHOWN)]
    rest = sum(count for _, count in left_out.most_common()[_KINDS_SHOWN:])
    parts += [f"others {rest:,}"] if rest else []
    if parts:
        report(escape_controls(f"left out of folders: {', '.join(parts)}"))


def no_image(folders: Sequence[str]) -> click.UsageError:
    """Return the error of folders in which there is nothing to do."""
    endings = ", ".join(sorted(ending.removeprefix(".") for ending in IMAGE_ENDINGS))
    names = ", ".join(map(repr, folders))
    return click.UsageError(f"The folder {names} holds no image: none of its files ends in {endings}.")


def read_item(item: Item, *, max_bytes: int) -> bytes | FailedImage:
    """Return the bytes of an image, or why it could not be read; never read more than one byte beyond the limit.

    Pipes, sockets and devices are never opened: that could take for ever, or have effects of its own.
    """
    if item.failure is not None:
        return item.failure
    try:
        if item.path == STDIN:
            content = sys.stdin.buffer.read(max_bytes + 1)
        else:
            mode = Path(item.path).stat().st_mode
            for is_kind, kind in _SPECIAL:
                if is_kind(mode):
                    message = f"This is {kind}, not a file: give its content by standard input (-)."
                    return FailedImage(code="INVALID_ARGUMENT", reason="", message=message)
            with Path(item.path).open("rb") as file:
                content = file.read(max_bytes + 1)
    except OSError as error:
        return describe_unreadable(error, "file")
    if len(content) > max_bytes:
        return describe_too_large(max_bytes)
    return content


def describe_too_large(max_bytes: int) -> FailedImage:
    """Return the failure of an image whose file has more bytes than are accepted."""
    message = f"The file is larger than the service accepts ({max_bytes:,} bytes): reduce it first."
    return FailedImage(code="INVALID_ARGUMENT", reason="IMAGE_TOO_LARGE", message=message)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise click.UsageError(f"{path!r} does not exist: check the path.") from None
    except ValueError:  # a NUL byte
        raise click.UsageError(f"{path!r} is not a path.") from None
    except OSError:  # behind a folder that may not be entered: reported when it is read
        return False


def _list_folder(folder: Path, left_out: Counter[str]) -> Iterator[Item | Path]:
    """Yield the images and the subfolders of a folder by name, or the failure of the folder itself."""
    try:
        with os.scandir(folder) as listed:
            entries = sorted((entry.name, _leads_to_folder(entry), entry.is_symlink()) for entry in listed)
    except OSError as error:
        yield Item(path=str(folder), failure=describe_unreadable(error, "folder"))
        return
    for name, is_folder, is_link in entries:
        path = folder / name
        if name.startswith("."):
            left_out["hidden"] += 1
        elif is_folder and is_link:  # it may lead back up
            left_out["linked folders"] += 1
        elif is_folder and name == _ARCHIVE_FOLDER:
            left_out[_ARCHIVE_FOLDER] += 1
        elif is_folder:
            yield path
        elif (ending := path.suffix.lower()) in IMAGE_ENDINGS:
            yield Item(path=str(path))
        else:
            left_out[ending if 1 < len(ending) <= _ENDING_LETTERS else "without ending"] += 1


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or behind a folder that may not be entered
        return False
