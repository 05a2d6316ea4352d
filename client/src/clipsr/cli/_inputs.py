"""From the paths of a command line to batches of image files in memory."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from clipsr import FailedImage, Limits
from clipsr._images import describe_unreadable

STDIN = "-"

IMAGE_ENDINGS = frozenset({".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What is taken from a folder: the formats that the service decodes (types.proto, Image). A file that is named on the
command line is sent whatever its name is; the service judges by content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One image of the command line.

    Attributes:
        path: as it is printed; "-" is standard input.
        failure: why there is nothing to read, known while searching folders; None for all others.
    """

    path: str
    failure: FailedImage | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Neighbouring images, read.

    Attributes:
        paths: of all images of the batch, in order.
        outcomes: the bytes of each image, or why it could not be read; as many as paths.
    """

    paths: tuple[str, ...]
    outcomes: tuple[bytes | FailedImage, ...]


def find_images(paths: Sequence[str]) -> list[Item]:
    """Return the images that the command line names, in its order, folders sorted.

    Raises:
        click.UsageError: a path does not exist, a folder holds no image, or standard input cannot be one.
    """
    if paths.count(STDIN) > 1:
        raise click.UsageError("Standard input (-) can be read only once: give - a single time.")
    items: list[Item] = []
    for path in paths:
        if path == STDIN:
            items.append(_find_stdin())
        elif _is_folder(path):
            items += _search_folder(path)
        else:
            items.append(Item(path=path))
    return items


def check_paths(paths: Sequence[str]) -> None:
    """Refuse paths that walk_images() could not begin with.

    Raises:
        click.UsageError: a path does not exist, or is standard input.
    """
    for path in paths:
        if path == STDIN:
            raise click.UsageError("Standard input (-) cannot be taken up again after an interruption: name files.")
        _is_folder(path)


def walk_images(paths: Sequence[str]) -> Iterator[Item]:
    """Yield the images that the command line names one by one, in the order of find_images().

    Folders are listed when their turn comes, so that at most one folder's names, and those of the folders above it, are
    in memory.
    """
    for path in paths:
        if _is_folder(path):
            yield from _walk_folder(Path(path))
        else:
            yield Item(path=path)


def read_item(item: Item, *, max_bytes: int) -> bytes | FailedImage:
    """Return the bytes of an image, or why it could not be read."""
    return item.failure or _read_image(item.path, max_bytes=max_bytes)


def read_batches(items: Sequence[Item], limits: Limits, *, batch_size: int) -> Iterator[Batch]:
    """Read images and yield them in batches that the service takes in one request.

    A batch also ends once it holds half a message of bytes, or an image more than fits; so at most about one request
    is in memory, however many images there are.
    """
    size = max(1, min(batch_size, limits.max_images))
    room_bytes = limits.max_message_bytes // 2
    paths: list[str] = []
    outcomes: list[bytes | FailedImage] = []
    held_bytes = 0
    for item in items:
        outcome = read_item(item, max_bytes=limits.max_image_bytes)
        paths.append(item.path)
        outcomes.append(outcome)
        held_bytes += len(outcome) if isinstance(outcome, bytes) else 0
        if len(paths) == size or held_bytes >= room_bytes:
            yield Batch(paths=tuple(paths), outcomes=tuple(outcomes))
            paths, outcomes, held_bytes = [], [], 0
    if paths:
        yield Batch(paths=tuple(paths), outcomes=tuple(outcomes))


def _find_stdin() -> Item:
    if sys.stdin.isatty():
        raise click.UsageError("Standard input (-) is a terminal: redirect an image file into it.")
    return Item(path=STDIN)


def _is_folder(path: str) -> bool:
    try:
        return stat.S_ISDIR(Path(path).stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise click.UsageError(f"{path!r} does not exist: check the path.") from None
    except ValueError:  # a NUL byte
        raise click.UsageError(f"{path!r} is not a path.") from None
    except OSError:  # behind a folder that may not be entered: reported when it is read
        return False


def _search_folder(folder: str) -> list[Item]:
    """Return the images under a folder, and the folders that could not be listed as items that failed."""
    found: dict[Path, FailedImage | None] = {}

    def note(error: OSError) -> None:
        found[Path(error.filename)] = describe_unreadable(error, "folder")

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in IMAGE_ENDINGS:
                found[path] = None
    if not found:
        raise no_image([folder])
    return [Item(path=str(path), failure=found[path]) for path in sorted(found)]


def no_image(folders: Sequence[str]) -> click.UsageError:
    """Return the error of folders in which there is nothing to do."""
    endings = ", ".join(sorted(ending.removeprefix(".") for ending in IMAGE_ENDINGS))
    names = ", ".join(map(repr, folders))
    return click.UsageError(f"The folder {names} holds no image: none of its files ends in {endings}.")


def _walk_folder(folder: Path) -> Iterator[Item]:
    try:
        with os.scandir(folder) as listed:
            entries = sorted((entry.name, entry.is_dir(), entry.is_symlink()) for entry in listed)
    except OSError as error:
        yield Item(path=str(folder), failure=describe_unreadable(error, "folder"))
        return
    for name, is_folder, is_link in entries:
        path = folder / name
        if name.startswith("."):
            continue
        if not is_folder and path.suffix.lower() in IMAGE_ENDINGS:
            yield Item(path=str(path))
        elif is_folder and not is_link:  # a link to a folder may lead back up
            yield from _walk_folder(path)


def _read_image(path: str, *, max_bytes: int) -> bytes | FailedImage:
    """Return the bytes of a file; never reads more than one byte beyond the limit."""
    try:
        if path == STDIN:
            content = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with Path(path).open("rb") as file:
                content = file.read(max_bytes + 1)
    except OSError as error:
        return describe_unreadable(error, "file")
    if len(content) > max_bytes:
        message = f"The file is larger than the service accepts ({max_bytes:,} bytes): reduce it first."
        return FailedImage(code="INVALID_ARGUMENT", reason="IMAGE_TOO_LARGE", message=message)
    return content
