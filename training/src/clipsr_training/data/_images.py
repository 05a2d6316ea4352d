"""Image files: which are taken for one, and from one to RGB as the service does it."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def find_images(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image file to RGB: EXIF orientation applied, alpha over white, as the service does.

    Raises:
        ValueError: it can't be decoded; the message names it.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                rgba = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
            return image.convert("RGB")
    # Pillow's parsers let through whatever they trip over.
    except Exception as error:
        raise ValueError(f"{name} can't be read as an image: {error}") from error


def is_lossy(encoded: bytes) -> bool:
    """Return whether a file is a JPEG or a lossy WebP; of WebP's two codecs, "VP8 " is the lossy one (RFC 9649)."""
    is_jpeg = encoded.startswith(b"\xff\xd8")
    is_webp = encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP"
    return is_jpeg or (is_webp and b"VP8 " in encoded[12:64])
