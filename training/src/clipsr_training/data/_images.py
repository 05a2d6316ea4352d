"""Image files: which are taken for one, and the one reader that turns them into RGB, by the service's rules.

Training knows nothing of serving, so this is an independent copy; `tests/training/test_images.py` holds both to equal
pixels, and to refusing the same files.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
# What the service takes. Pillow knows dozens more, some of which start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
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
    # Pillow's parsers let through whatever they trip over (struct.error, SyntaxError, ...).
    except Exception as error:
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
    """Return why an image file can't be decoded, None if it can, at a part of the work of `decode`."""
    try:
        _decode(content, draft_size=_DRAFT_SIZE)
    except Exception as error:
        return _reason(error)
    return None


def read_size(content: bytes, name: str) -> tuple[int, int]:
    """Return width and height from the header, as they are stored; ValueError if there is none."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.size
    except Exception as error:
        raise ValueError(f"{name} can't be read as an image: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    # Pillow prints the address of a buffer, which says nothing.
    is_unknown = isinstance(error, UnidentifiedImageError)
    return f"it is no {', '.join(_FORMATS)} file" if is_unknown else str(error) or type(error).__name__


def _decode(content: bytes, draft_size: tuple[int, int] | None = None) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
        if draft_size is not None:
            opened.draft("RGB", draft_size)
        opened.load()
        image = _upright(opened)
        if image.mode == "F":
            raise ValueError("floating-point pixels have no defined range; store 8 or 16 bits a channel")
        if image.mode.startswith("I"):
            return _from_16_bit(image)
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
        return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    # Damaged EXIF says nothing of the pixels, which decoded well.
    except Exception:
        return image


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("integers beyond 16 bits have no defined range; store 8 or 16 bits a channel")
    # 65535 / 257 is 255; rounded to the nearest.
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")


def is_lossy(encoded: bytes) -> bool:
    """Return whether a file is a JPEG or a lossy WebP; of WebP's two codecs, "VP8 " is the lossy one (RFC 9649)."""
    is_jpeg = encoded.startswith(b"\xff\xd8")
    is_webp = encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP"
    return is_jpeg or (is_webp and b"VP8 " in encoded[12:64])
