"""What a caller gives as an image becomes the bytes of a file."""

from __future__ import annotations

import io
import os
import re
from collections.abc import AsyncIterable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from clipsr import _pixels
from clipsr._codecs.arguments import show
from clipsr._errors import InvalidRequestError
from clipsr._types import FailedImage, ImageSource

_Images = TypeVar("_Images")

_URL = re.compile(r"(data:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)


def as_sequence(images: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """Return `images` as they are.

    Raises:
        TypeError: they are one image, whose bytes, rows or letters of its path would pass for a sequence, or none.
    """
    return as_iterable(images)


def as_iterable(images: _Images) -> _Images:
    """Return `images` as they are; raise TypeError as as_sequence()."""
    given: object = images
    is_file = isinstance(given, (str, bytes, bytearray, os.PathLike)) or hasattr(given, "read")
    if is_file or _pixels.is_picture(cast("object", given)):
        raise TypeError("images is one image; give a sequence of images, such as [image]")
    if not isinstance(given, (Iterable, AsyncIterable)):
        shown = show(cast("object", images))
        raise TypeError(f"images is {shown}; give a sequence of images, such as [image]")
    return images


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
    except InvalidRequestError as error:
        return describe_invalid(error)


def describe_invalid(error: InvalidRequestError) -> FailedImage:
    """Return as the failure of one image what would be an error of a call for one."""
    return FailedImage(code="INVALID_ARGUMENT", reason=error.reason, message=str(error))


def describe_unreadable(error: OSError, kind: str) -> FailedImage:
    """Put into the words of gRPC's status codes why something on this machine, a "file" or "folder", was not read."""
    if isinstance(error, PermissionError):
        code, message = "PERMISSION_DENIED", f"The {kind} may not be read: check its permissions."
    elif isinstance(error, FileNotFoundError):
        code, message = "NOT_FOUND", f"The {kind} is gone, or its link leads nowhere."
    else:
        code, message = "DATA_LOSS", f"The {kind} could not be read: {error.strerror or error}."
    return FailedImage(code=code, reason="", message=message)


def read_image(source: ImageSource) -> bytes:
    """Return the content of one file; pictures in memory become one.

    Raises:
        OSError: a file cannot be read.
        InvalidRequestError: a path is a URL or no path, or an open file is closed.
        TypeError: `source` is none of ImageSource, or an open file is not binary.
    """
    if isinstance(source, (bytes, bytearray)):
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source)
    if hasattr(source, "read"):
        return _read_open(source)
    content = _pixels.to_file(source)
    if content is None:
        raise TypeError(
            f"{show(source)} is no image; give a path, the bytes of a file, an open binary file, a Pillow image, or an "
            f"array of uint8"
        )
    return content


def _read_path(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        if _URL.match(os.fspath(path)) is None:
            raise
        raise _invalid(f"{_shorten(path)} is a URL, and only files are read: fetch it, and give its bytes.") from error
    except ValueError as error:
        raise _invalid(f"{_shorten(path)} is no path: give the bytes of a file as bytes, not as text.") from error


def _read_open(file: Any) -> bytes:
    try:
        content: object = b"" if isinstance(file, io.TextIOBase) else file.read()
    except OSError:
        raise
    except ValueError as error:
        raise _invalid(f"{show(file)} cannot be read: {error}.") from error
    if isinstance(file, io.TextIOBase) or not isinstance(content, bytes):
        raise TypeError(f"{show(file)} does not give bytes; open image files in binary mode, open(path, 'rb')")
    return content


def _shorten(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, violations=(("images", message),))
