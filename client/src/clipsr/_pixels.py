"""Pictures in memory become PNG files: Pillow images, and arrays such as NumPy's, without importing either."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

_AS_THEY_ARE = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B"}
"""Modes of Pillow that its PNG files hold; others are converted first."""

_CONVERTED = {"I": "I;16", "La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
"""What others become, if not RGB."""

_COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's number for so many channels: grey, grey and alpha, RGB, RGBA. Source: PNG specification, table 11.1."""

_LEVEL = 1  # the fastest: the file travels once and is not kept


def is_picture(source: object) -> bool:
    """Return whether `source` is one image in memory: a Pillow image, or an array of bytes with up to 3 dimensions."""
    if _is_pillow(source):
        return True
    view = _view(source)
    return view is not None and view.format == "B" and view.ndim <= 3


def to_file(source: object) -> bytes | None:
    """Return a picture as an image file; None if `source` is none.

    Pillow images keep their orientation and colour profile. Arrays are [height, width] (grey) or [height, width,
    channels] of uint8, where 1 to 4 channels are grey, grey and alpha, RGB, or RGBA; one dimension is a file's content.

    Raises:
        OSError: Pillow cannot read the image's file.
        TypeError: the array has another type or shape, or the Pillow image holds floats.
    """
    if _is_pillow(source):
        return _save(source)
    view = _view(source)
    if view is None:
        if hasattr(source, "__array__"):
            raise TypeError(f"{type(source).__name__} is no image; of a tensor give .cpu().numpy(), as uint8")
        return None
    if view.format != "B":
        raise TypeError(f"the array has items of {view.format!r}; give uint8 (0 to 255), such as array.astype('uint8')")
    return view.tobytes() if view.ndim == 1 else _encode(view)


def _is_pillow(source: Any) -> bool:
    return callable(getattr(source, "save", None)) and hasattr(source, "getbands") and hasattr(source, "mode")


def _view(source: Any) -> memoryview | None:
    try:
        return memoryview(source)
    except (TypeError, ValueError, BufferError):  # no buffer; or one of items that Python has no letter for
        return None


def _save(image: Any) -> bytes:
    if image.mode == "F":
        raise TypeError("the Pillow image holds floats (mode F); bring it to 0 to 255 and give image.convert('L')")
    try:
        return _save_png(image)
    except (SyntaxError, ValueError, EOFError) as error:  # how Pillow says that a file is damaged, or was closed
        raise OSError(f"Pillow cannot read the image: {error}") from error


def _save_png(image: Any) -> bytes:
    exif = image.getexif()
    options: dict[str, Any] = {"exif": exif} if exif else {}  # the orientation
    if image.mode not in _AS_THEY_ARE:
        image = image.convert(_CONVERTED.get(image.mode, "RGB"))
        options["icc_profile"] = None  # it was of the other mode
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=_LEVEL, **options)
    return file.getvalue()


def _encode(view: memoryview) -> bytes:
    """Return a PNG file. Source: PNG specification, sections 5 and 11.2."""
    height, width, channels = (*(view.shape or ()), 1)[:3]
    if view.ndim > 3 or channels not in _COLOR_TYPES or 0 in (height, width):
        raise TypeError(
            f"the array has the shape {view.shape}; give [height, width, channels] with 1 to 4 channels, such as "
            f"array.transpose(1, 2, 0) of one with its channels first"
        )
    pixels, row_bytes = view.tobytes(), width * channels
    rows = b"".join(b"\0" + pixels[start : start + row_bytes] for start in range(0, len(pixels), row_bytes))
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, _LEVEL)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
