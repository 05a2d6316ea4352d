"""Image files: which are taken for one, and how they become RGB: by the service's reader, `_image_file`."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from clipsr_training.data._image_file import (
    FORMATS,
    ImageFileError,
    find_format,
    load_image,
    make_upright,
    open_image,
    to_eight_bits,
)

# HEIC too where it can't be read here: such a file is refused by name, others are left out of a folder in silence.
IMAGE_ENDINGS = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png"}
    | {".tif", ".tiff", ".webp"}
)
# The service's too: `clipsr-client upscale` writes the same files (tests/training/test_images.py holds both together).
_WRITTEN = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": "4:4:4"}),
    ".webp": ("WEBP", {"lossless": True, "exact": True, "method": 2}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".bmp": ("BMP", {}),
}
_OTHER_ENDINGS = {".jpeg": ".jpg", ".tif": ".tiff"}
# What a check decodes to: enough to read a JPEG's whole stream, at an eighth of the work.
_DRAFT_SIZE = (32, 32)
# What archivers of macOS leave beside every file.
_MACOS_FOLDER = "__MACOSX"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of the data: `.cache`, `._photo.jpg`, `__MACOSX`."""
    return name.startswith(".") or name == _MACOS_FOLDER


def find_images(folder: Path, *, recursive: bool = True) -> list[Path]:
    """Return the image files in a folder, or also in all folders below it, sorted; hidden ones are left out."""
    paths = folder.rglob("*") if recursive else folder.glob("*")
    found = (path for path in paths if path.suffix.lower() in IMAGE_ENDINGS)
    return sorted(path for path in found if not any(map(is_hidden, path.relative_to(folder).parts)))


def read_image(path: Path) -> np.ndarray:
    """Decode an image file to RGB uint8 [H, W, 3].

    Raises:
        OSError: it can't be read.
        ValueError: it can't be decoded; the message names it.
    """
    return np.asarray(decode(path.read_bytes(), str(path)))


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image file to RGB.

    The first frame of animations; EXIF orientation applied; 16 bits scaled to 8; alpha over white; colour profiles
    ignored. Floating-point pixels, and integers beyond 16 bits, have no defined range and are refused.

    Raises:
        ValueError: it can't be decoded; the message names it.
    """
    try:
        return _decode(content)
    except (ImageFileError, ValueError) as error:
        raise ValueError(f"{name} can't be read as an image: {_reason(error)}") from error


def check_ending(path: Path) -> None:
    """Check that `encode` can write a file of this name; ValueError names the endings that it knows."""
    ending = path.suffix.lower()
    if _OTHER_ENDINGS.get(ending, ending) not in _WRITTEN:
        raise ValueError(f"{path} must end in {', '.join((*_WRITTEN, *_OTHER_ENDINGS))}")


def encode(image: Image.Image, path: Path) -> bytes:
    """Encode an RGB image as the ending of a path says: without loss, but JPEG, which is of quality 95.

    An embedded profile of RGB colours is kept; `decode` hands it on.
    """
    ending = path.suffix.lower()
    kind, options = _WRITTEN[_OTHER_ENDINGS.get(ending, ending)]
    profile = image.info.get("icc_profile")
    # A profile's header names its colour space (ICC.1:2022, section 7.2.8); that of CMYK fits no RGB pixels.
    if profile is not None and profile[16:20] == b"RGB ":
        options = {**options, "icc_profile": profile}
    buffer = io.BytesIO()
    # Without what else Pillow found in the original, such as a comment or a resolution, which it would write.
    Image.fromarray(np.asarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def find_objection(content: bytes) -> str | None:
    """Return why an image file can't be decoded, None if it can; for a sound JPEG at a part of the work of `decode`."""
    with contextlib.suppress(Exception):  # then the whole decoding says what is wrong
        if find_format(content) == "JPEG":
            image = open_image(content, max_pixels=sys.maxsize)
            image.draft("RGB", _DRAFT_SIZE)
            image.load()
            return None
    try:
        _decode(content)
    except (ImageFileError, ValueError) as error:
        return _reason(error)
    return None


def read_size(content: bytes, name: str) -> tuple[int, int]:
    """Return width and height from the header, as they are stored; ValueError if there is none."""
    try:
        return open_image(content, max_pixels=sys.maxsize).size
    except ImageFileError as error:
        raise ValueError(f"{name} can't be read as an image: {_reason(error)}") from error


def _reason(error: ImageFileError | ValueError) -> str:
    if not isinstance(error, ImageFileError):
        return str(error)
    # What follows tells the callers of a service what to do.
    fault = error.message.partition(";")[0]
    return f"{fault} (one of {', '.join(FORMATS)})" if error.reason == "IMAGE_UNRECOGNIZED" else fault


def _decode(content: bytes) -> Image.Image:
    image = make_upright(load_image(content, max_pixels=sys.maxsize))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; store 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        image = to_eight_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return image.convert("RGB")
