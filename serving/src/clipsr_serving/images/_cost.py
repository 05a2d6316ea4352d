"""What an image file costs to read besides its pixels, counted before anything parses it.

A few hundred bytes can keep a decoder busy for minutes: scans that all go over the same pixels, pieces that are handled
one by one. Well-formed or not, a file is refused once it has more of them than encoders write.

Gateway and serving are installed separately, so each has this file, byte for byte the same
(tests/contract/test_image_cost.py). It knows nothing of either room.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import cast

MAX_PARTS = 32_768
"""Pieces that are parsed one by one, at 1 to 5 microseconds: 16 MiB of PNG in chunks of 512 bytes, or a TIFF with a
strip for each of 8,192 rows in three planes."""

MAX_WORK_PIXELS = 3 * 8192 * 8192
"""Pixels that decoding may go over, see `count_work_pixels`; some two seconds of one core. The largest image that is
accepted, as a progressive JPEG of ten scans, needs two thirds of it."""

# A further scan of a progressive JPEG takes a tenth of what decoding the image takes (0.8 of 8 ns a pixel).
_SCANS_PER_DECODING = 10
# Pillow's decoder of run-length encoded BMPs is written in Python: 0.3 microseconds a byte.
_PIXELS_PER_RUN_LENGTH_BYTE = 32

# An EXIF block in a PNG's text beyond this is not looked into; it fits a JPEG segment.
_MAX_EXIF_TEXT_BYTES = 192 * 1024
# Pillow reads all values of a directory at once. They may overlap, so that their sum is any multiple of the file.
_MAX_VALUE_BYTES = 64 * 1024 * 1024

_SCAN = b"\xff\xda"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_EXIF_PREFIX = b"Exif\x00\x00"
_EXIF_TEXT = b"Raw profile type exif\x00"
_TIFF_VALUE_BYTES = (1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8)  # TIFF 6.0, section 2, by type; unknown types: 1
_STRIP_OFFSETS, _TILE_OFFSETS, _COMPRESSION, _JPEG_IN_TIFF = 273, 324, 259, 7
_MAX_TIFF_PAGES = 8
_LIBTIFF_MAX_SCANS = 100  # libtiff, tif_jpeg.c
_GIF_COMMENT, _GIF_IMAGE, _GIF_EXTENSION = 0xFE, 0x2C, 0x21
_BMP_RUN_LENGTH = (1, 2)  # BITMAPINFOHEADER.biCompression


class ImageCostError(Exception):
    """Reading the file costs more than any image should.

    Attributes:
        reason: IMAGE_TOO_COMPLEX.
        message: what there is too much of, and what to do.
    """

    reason = "IMAGE_TOO_COMPLEX"

    def __init__(self, what: str) -> None:
        self.message = f"The file has {what}, more than an image needs; open it in an image editor and save it again."
        super().__init__(self.message)


def check_parts(content: bytes) -> None:
    """Count the pieces of a file that a reader handles one by one, up to its pixels.

    Raises:
        ImageCostError: they are more than MAX_PARTS, or their values are larger than the file.
    """
    name, parts = _parts(content)
    for count, _ in enumerate(parts, 1):
        if count > MAX_PARTS:
            raise ImageCostError(f"more than {MAX_PARTS:,} {name}")


def count_work_pixels(content: bytes, size_hw: tuple[int, int]) -> int:
    """Return how many pixels decoding goes over, all passes counted.

    Args:
        content: the file, which passed `check_parts`.
        size_hw: what its header says.

    Raises:
        ImageCostError: they are more than MAX_WORK_PIXELS.
    """
    pixels = size_hw[0] * size_hw[1]
    # No need to know more than that they are too many, nor the time that counting them takes.
    most = MAX_WORK_PIXELS * _SCANS_PER_DECODING // max(1, pixels) + 1
    scans = _count_scans(content, most)
    work = pixels + pixels * scans // _SCANS_PER_DECODING
    if content[:2] == b"BM" and int.from_bytes(content[30:34], "little") in _BMP_RUN_LENGTH:
        work += len(content) * _PIXELS_PER_RUN_LENGTH_BYTE
    if work > MAX_WORK_PIXELS:
        raise ImageCostError(f"{scans:,} scans or more" if scans else f"{len(content):,} bytes of run lengths")
    return work


def _parts(content: bytes) -> tuple[str, Iterator[object]]:
    if content.startswith(b"\xff\xd8\xff"):
        return "segments or fill bytes", _jpeg_parts(content)
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "chunks", _png_parts(content)
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "blocks", _gif_parts(content)
    if content.startswith((b"II*\x00", b"MM\x00*")):
        return "strips, tiles or entries", _tiff_parts(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "entries", _webp_parts(content)
    return "parts", iter(())


def _jpeg_parts(content: bytes) -> Iterator[object]:
    """Yield each segment and each byte between segments, up to the first scan.

    Source: ITU-T T.81, B.1.1; any marker may be preceded by any number of fill bytes.
    """
    position, exif = 2, b""
    while position + 1 < len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker in (0x00, 0xFF):
            position += 1
        elif marker in _JPEG_WITHOUT_LENGTH:
            position += 2
        elif marker == _SCAN[1]:
            break
        else:
            length = int.from_bytes(content[position + 2 : position + 4], "big")
            body = position + 4
            position += 2 + max(2, length)
            if marker == 0xE1 and content.startswith(_EXIF_PREFIX, body):
                exif += content[body + len(_EXIF_PREFIX) : position]
        yield None
    yield from _directory_parts(exif, pages=1)


def _png_parts(content: bytes) -> Iterator[object]:
    position = 8
    while position < len(content):
        kind = content[position + 4 : position + 8]
        body, length = position + 8, int.from_bytes(content[position : position + 4], "big")
        position += 12 + length
        yield None
        if kind == b"eXIf":
            yield from _directory_parts(content[body : body + length], pages=1)
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and content.startswith(_EXIF_TEXT, body):
            yield from _directory_parts(_unpack_exif(kind, content[body + len(_EXIF_TEXT) : body + length]), pages=1)
        elif kind == b"IEND":
            return


def _unpack_exif(kind: bytes, text: bytes) -> bytes:
    """Return the EXIF block that a PNG's text holds in hexadecimal.

    Args:
        kind: tEXt, zTXt or iTXt.
        text: what follows the keyword.

    Raises:
        ImageCostError: it is larger than such a block can be.

    Source: PNG specification, third edition, section 11.3.3; the form of the text is ImageMagick's.
    """
    unpacker = zlib.decompressobj()
    is_packed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\x01")
    head = {b"tEXt": 0, b"zTXt": 1, b"iTXt": 2}[kind]
    text = text[head:].split(b"\x00", 2)[-1] if kind == b"iTXt" else text[head:]
    try:
        text = unpacker.decompress(text, _MAX_EXIF_TEXT_BYTES) if is_packed else text
        if unpacker.unconsumed_tail or len(text) > _MAX_EXIF_TEXT_BYTES:
            raise ImageCostError(f"more than {_MAX_EXIF_TEXT_BYTES:,} bytes of EXIF as text")
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii")).removeprefix(_EXIF_PREFIX)
    except (zlib.error, ValueError):
        return b""  # then no reader finds one


def _gif_parts(content: bytes) -> Iterator[object]:
    """Yield each block, and each byte of comments, up to the first image.

    Comments count by bytes as Pillow copies what it has of one for every further block.

    Source: GIF89a specification, sections 18 to 26.
    """
    flags = content[10] if len(content) > 10 else 0
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while position + 1 < len(content) and content[position] != _GIF_IMAGE:
        if content[position] != _GIF_EXTENSION:
            position += 1
            yield None
            continue
        is_comment = content[position + 1] == _GIF_COMMENT
        position += 2
        while position < len(content):
            length = content[position]
            position += 1 + length
            yield from range(1 + length) if is_comment else (None,)
            if not length:
                break


def _webp_parts(content: bytes) -> Iterator[object]:
    position = 12
    while position + 8 <= len(content):
        length = int.from_bytes(content[position + 4 : position + 8], "little")
        yield None
        if content[position : position + 4] == b"EXIF":
            yield from _directory_parts(content[position + 8 : position + 8 + length], pages=1)
        position += 8 + length + length % 2


def _tiff_parts(content: bytes) -> Iterator[object]:
    return _directory_parts(content, pages=_MAX_TIFF_PAGES)


def _directory_parts(block: bytes, *, pages: int) -> Iterator[object]:
    """Yield each entry, strip and tile of the first directories of a TIFF file or an EXIF block.

    Raises:
        ImageCostError: the values of a directory are together many times as large as a file.

    Source: TIFF 6.0, section 2.
    """
    block = block.removeprefix(_EXIF_PREFIX)
    order = "little" if block[:2] == b"II" else "big"
    entry = struct.Struct("<HHI" if order == "little" else ">HHI")
    at = 4
    for _ in range(pages):
        start = int.from_bytes(block[at : at + 4], order)
        if not start or start + 2 > len(block):
            return
        value_bytes = 0
        at = start + 2 + 12 * int.from_bytes(block[start : start + 2], order)
        for position in range(start + 2, min(at, len(block) - 11), 12):
            tag, kind, count = cast("tuple[int, int, int]", entry.unpack_from(block, position))
            value_bytes += min(len(block), count * (_TIFF_VALUE_BYTES[kind] if kind < len(_TIFF_VALUE_BYTES) else 1))
            yield from range(count) if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) else (None,)
        if value_bytes > _MAX_VALUE_BYTES:
            raise ImageCostError(f"{value_bytes:,} bytes of metadata")


def _count_scans(content: bytes, most: int) -> int:
    """Count the scans of a JPEG, or of the JPEG inside a TIFF, up to `most`; 0 of a file that needs but one."""
    if content.startswith(b"\xff\xd8\xff"):
        # Previews and further pictures have scans, too: looked at only where the sum is unusual.
        scans = sum(1 for _ in islice(re.finditer(_SCAN, content), 2 * _SCANS_PER_DECODING + 1))
        return 0 if scans <= 1 else scans if scans <= 2 * _SCANS_PER_DECODING else _walk_scans(content, most)
    if content.startswith((b"II*\x00", b"MM\x00*")) and b"\xff\xc2" in content and _has_jpeg(content):
        return min(content.count(_SCAN), _LIBTIFF_MAX_SCANS)
    return 0


def _walk_scans(content: bytes, most: int) -> int:
    """Count the scans of the first picture of a JPEG file, up to `most`."""
    scans, position = 0, 2
    while scans < most and (match := _JPEG_MARKER.search(content, position)):
        marker, position = content[match.end() - 1], match.end()
        if marker == 0xD9:
            break
        if marker not in _JPEG_WITHOUT_LENGTH:
            scans += marker == _SCAN[1]
            position += int.from_bytes(content[position : position + 2], "big")
    return scans


def _has_jpeg(content: bytes) -> bool:
    """Say whether a directory of a TIFF names JPEG as its compression."""
    order = "little" if content[:2] == b"II" else "big"
    entry = _COMPRESSION.to_bytes(2, order) + (3).to_bytes(2, order) + (1).to_bytes(4, order)
    return entry + _JPEG_IN_TIFF.to_bytes(2, order) in content
