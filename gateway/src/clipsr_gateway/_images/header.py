"""Size and format of an image from its header, without decoding a pixel."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import ExifTags, Image

from clipsr_gateway._limits import Limits
from clipsr_gateway.errors import ImageRejectedError

# Formats that are opened, by Pillow's names; the decoder behind the gateway accepts the same.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_LOSSY = ("JPEG", "WEBP")
# EXIF orientations that exchange rows and columns (EXIF 2.32, tag 0x0112).
_TRANSPOSED = (5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What the header says.

    Attributes:
        format: Pillow's name, for example "JPEG".
        size_hw: rows and columns, after EXIF orientation.
    """

    format: str
    size_hw: tuple[int, int]

    @property
    def media_type(self) -> str:
        """Such as "image/jpeg"."""
        return Image.MIME.get(self.format, "application/octet-stream")

    @property
    def is_lossy(self) -> bool:
        """Whether files of this format usually lose something; lossless WebP is rare."""
        return self.format in _LOSSY


def check_image(content: bytes, *, limits: Limits) -> ImageHeader:
    """Check all that can be known of an image file without decoding it.

    Raises:
        ImageRejectedError: IMAGE_EMPTY, IMAGE_TOO_LARGE, IMAGE_UNRECOGNIZED or IMAGE_TOO_MANY_PIXELS.
    """
    if not content:
        raise ImageRejectedError("IMAGE_EMPTY", "The image is empty; send the bytes of an image file.")
    if len(content) > limits.max_image_bytes:
        message = f"The image has {len(content):,} bytes; at most {limits.max_image_bytes:,} are allowed."
        raise ImageRejectedError("IMAGE_TOO_LARGE", message)
    return read_header(content, max_pixels=limits.max_image_pixels)


def read_header(content: bytes, *, max_pixels: int) -> ImageHeader:
    """Read format and size of an encoded image.

    Pillow guards against decompression bombs by a global limit that warns; here the limit is exact and an error.
    Pillow's own error and warning both mean more pixels than any sensible `max_pixels`.

    Args:
        content: the file.
        max_pixels: rows times columns allowed.

    Returns:
        The header, which promises nothing about the data that follows it.

    Raises:
        ImageRejectedError: IMAGE_UNRECOGNIZED or IMAGE_TOO_MANY_PIXELS.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = image.size
        if _is_transposed(image):
            width, height = height, width
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as cause:
        raise _too_many_pixels("", max_pixels) from cause
    except Exception as cause:  # plugins raise whatever damaged bytes provoke: OSError, ValueError, struct.error …
        raise _unrecognized() from cause
    if width * height > max_pixels:
        raise _too_many_pixels(f" ({width} x {height})", max_pixels)
    if width < 1 or height < 1:
        raise _unrecognized()
    return ImageHeader(format=image.format or "unknown", size_hw=(height, width))


def _is_transposed(image: Image.Image) -> bool:
    """Say whether upright viewing exchanges the rows and columns that `image.size` gives."""
    if image.format == "TIFF":
        return False  # Pillow's TIFF size is upright already
    try:
        # The base class's method: PNG's own would decode the whole image to find metadata behind the pixels.
        exif = Image.Image.getexif(image)
    except Exception:  # damaged metadata does not make an image unreadable
        return False
    return exif.get(ExifTags.Base.Orientation) in _TRANSPOSED


def _unrecognized() -> ImageRejectedError:
    return ImageRejectedError(
        "IMAGE_UNRECOGNIZED",
        "This is not an image that can be read; send the bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file.",
    )


def _too_many_pixels(size: str, max_pixels: int) -> ImageRejectedError:
    return ImageRejectedError(
        "IMAGE_TOO_MANY_PIXELS",
        f"The image has more than {max_pixels:,} pixels{size}; reduce it before sending.",
    )
