"""Kinds of image files: the one table of what each is called, how it begins and which endings it has."""

from __future__ import annotations

import re
from dataclasses import dataclass

from clipsr._picture_types import UpscaleFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFormat:
    """A kind of image file that the service reads.

    Attributes:
        media_types: what a service calls it; older ones used the others than the first.
        endings: of file names, in lower case; the first is the one that is written.
        output: what Client.upscale() calls it; None if it writes none.
        beginning: of such files, if every browser shows them.
    """

    media_types: tuple[str, ...]
    endings: tuple[str, ...]
    output: UpscaleFormat | None = None
    beginning: bytes | None = None


_FORMATS = (
    FileFormat(media_types=("image/avif",), endings=(".avif",)),
    FileFormat(media_types=("image/bmp",), endings=(".bmp",), output="bmp", beginning=rb"BM"),
    FileFormat(media_types=("image/gif",), endings=(".gif",), beginning=rb"GIF8"),
    FileFormat(media_types=("image/heic",), endings=(".heic", ".heif", ".hif")),
    FileFormat(
        media_types=("image/jpeg", "image/mpo"),  # a JPEG of a phone that holds another picture behind the first
        endings=(".jpg", ".jpeg", ".jfif", ".jpe", ".mpo"),
        output="jpeg",
        beginning=rb"\xff\xd8\xff",
    ),
    FileFormat(media_types=("image/png",), endings=(".png",), output="png", beginning=rb"\x89PNG\r\n\x1a\n"),
    FileFormat(media_types=("image/tiff",), endings=(".tiff", ".tif"), output="tiff"),
    FileFormat(media_types=("image/webp",), endings=(".webp",), output="webp", beginning=rb"RIFF....WEBP"),
)

IMAGE_ENDINGS = frozenset(ending for kind in _FORMATS for ending in kind.endings)
"""What is taken from a folder. A file that is named is sent whatever its name is; the service judges by content."""

OUTPUT_OF_ENDING: dict[str, UpscaleFormat] = {
    ending: kind.output for kind in _FORMATS if kind.output for ending in kind.endings
}
"""What an ending stands for where an image is written."""

ENDING_OF_OUTPUT: dict[UpscaleFormat, str] = {kind.output: kind.endings[0] for kind in _FORMATS if kind.output}
"""The ending of what is written."""

ENDING_OF_MEDIA_TYPE = {media_type: kind.endings[0] for kind in _FORMATS for media_type in kind.media_types}
"""The ending of a file that a service keeps."""


def find_shown_type(content: bytes) -> str | None:
    """Return the media type of a file if every browser shows it."""
    for kind in _FORMATS:
        if kind.beginning and re.match(kind.beginning, content, re.DOTALL):
            return kind.media_types[0]
    return None
