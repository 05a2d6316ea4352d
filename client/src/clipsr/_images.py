"""Image files become bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from clipsr._types import ImageSource

__all__ = ["as_sequence", "read_image", "read_images"]


def as_sequence(images: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """Returns `images` as they are.

    Raises:
        TypeError: they are one image. Its bytes or the letters of its path would pass for a sequence.
    """
    if isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike)) or hasattr(images, "read"):
        raise TypeError("images is one image; give a sequence of images, such as [image]")
    return images


def read_images(sources: Iterable[ImageSource]) -> Iterator[bytes]:
    """Yields the content of each file, reading one at a time; bytes are passed on as they are.

    Raises:
        OSError: a path cannot be read.
        TypeError: a source is none of ImageSource, or an open file is not binary.
    """
    for source in sources:
        yield read_image(source)


def read_image(source: ImageSource) -> bytes:
    """Returns the content of one file; raises as read_images()."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    read = getattr(source, "read", None)
    if read is None:
        return Path(source).read_bytes()  # pyright: ignore[reportArgumentType] - what cannot be read is a path
    content: object = read()
    if not isinstance(content, bytes):
        raise TypeError(f"{source!r} does not give bytes; open image files in binary mode, open(path, 'rb')")
    return content
