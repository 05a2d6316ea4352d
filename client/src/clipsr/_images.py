"""Image files become bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from clipsr._types import FailedImage, ImageSource

_Images = TypeVar("_Images")


def as_sequence(images: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """Return `images` as they are.

    Raises:
        TypeError: they are one image. Its bytes or the letters of its path would pass for a sequence.
    """
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(images, "read"):
        raise TypeError("images is one image; give a sequence of images, such as [image]")
    return images


def as_iterable(images: _Images) -> _Images:
    """Return `images` as they are; raise TypeError as as_sequence() if they are one image."""
    as_sequence(images)  # pyright: ignore[reportArgumentType] - it looks only at what they are not
    return images


def read_images(sources: Iterable[ImageSource]) -> Iterator[bytes]:
    """Yield the content of each file, reading one at a time; bytes are passed on as they are.

    Raises:
        OSError: a path cannot be read.
        TypeError: a source is none of ImageSource, or an open file is not binary.
    """
    for source in sources:
        yield read_image(source)


def try_read_image(source: ImageSource | FailedImage) -> bytes | FailedImage:
    """Return the content of one file, or why it cannot be read; a failure is passed on as it is.

    Raises:
        TypeError: `source` is none of ImageSource, or an open file is not binary.
    """
    if isinstance(source, FailedImage):
        return source
    try:
        return read_image(source)
    except OSError as error:
        return describe_unreadable(error, "file")


def describe_unreadable(error: OSError, kind: str) -> FailedImage:
    """Put into the words of gRPC's status codes why something on this machine, a "file" or "folder", was not read."""
    if isinstance(error, PermissionError):
        code, message = "PERMISSION_DENIED", f"The {kind} may not be read: check its permissions."
    elif isinstance(error, FileNotFoundError):
        code, message = "NOT_FOUND", f"The {kind} is gone, or its link leads nowhere."
    else:
        code, message = "DATA_LOSS", f"The {kind} could not be read: {error.strerror}."
    return FailedImage(code=code, reason="", message=message)


def read_image(source: ImageSource) -> bytes:
    """Return the content of one file; raise as read_images()."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    read = getattr(source, "read", None)
    if read is None:
        return Path(source).read_bytes()  # pyright: ignore[reportArgumentType] - what cannot be read is a path
    content: object = read()
    if not isinstance(content, bytes):
        raise TypeError(f"{source!r} does not give bytes; open image files in binary mode, open(path, 'rb')")
    return content
