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

__all__ = ["IMAGE_ENDINGS", "STDIN", "Batch", "Item", "find_images", "read_batches"]

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
        outcome = item.failure or _read_image(item.path, max_bytes=limits.max_image_bytes)
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
        endings = ", ".join(sorted(ending.removeprefix(".") for ending in IMAGE_ENDINGS))
        raise click.UsageError(f"The folder {folder!r} holds no image: none of its files ends in {endings}.")
    return [Item(path=str(path), failure=found[path]) for path in sorted(found)]


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
