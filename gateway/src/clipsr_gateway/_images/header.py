"""Size and format of an image from its header, without decoding a pixel."""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import ExifTags, Image

from clipsr_gateway._images.cost import ImageCostError, check_parts, count_work_pixels
from clipsr_gateway._images.file import MEDIA_TYPES, ImageFileError, find_format, open_image
from clipsr_gateway._limits import Limits
from clipsr_gateway.errors import ImageRejectedError

# EXIF orientations that exchange rows and columns (EXIF 2.32, tag 0x0112).
_TRANSPOSED = (5, 6, 7, 8)


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """What the header says.

    Attributes:
        format: one of FORMATS, for example "JPEG".
        size_hw: rows and columns, after EXIF orientation.
        work_pixels: that decoding goes over, all passes counted; `check_image` alone counts them.
    """

    format: str
    size_hw: tuple[int, int]
    work_pixels: int = 0

    @property
    def media_type(self) -> str:
        """Such as "image/jpeg"."""
        return MEDIA_TYPES[self.format]


def check_image(content: bytes, *, limits: Limits) -> ImageHeader:
    """Check all that can be known of an image file without decoding it.

    Raises:
        ImageRejectedError: IMAGE_EMPTY, IMAGE_TOO_LARGE, IMAGE_UNRECOGNIZED, IMAGE_TRUNCATED, IMAGE_TOO_MANY_PIXELS or
            IMAGE_TOO_COMPLEX.
    """
    if not content:
        raise ImageRejectedError("IMAGE_EMPTY", "The image is empty; send the bytes of an image file.")
    if len(content) > limits.max_image_bytes:
        message = f"The image has {len(content):,} bytes; at most {limits.max_image_bytes:,} are allowed."
        raise ImageRejectedError("IMAGE_TOO_LARGE", message)
    try:
        check_parts(content)
        header = read_header(content, max_pixels=limits.max_image_pixels)
        return replace(header, work_pixels=count_work_pixels(content, header.size_hw))
    except ImageCostError as cause:
        raise ImageRejectedError(cause.reason, cause.message) from cause


def read_header(content: bytes, *, max_pixels: int) -> ImageHeader:
    """Read format and size of an encoded image.

    Args:
        content: the file.
        max_pixels: rows times columns allowed.

    Returns:
        The header, which promises nothing about the data that follows it.

    Raises:
        ImageRejectedError: IMAGE_UNRECOGNIZED, IMAGE_TRUNCATED or IMAGE_TOO_MANY_PIXELS.
    """
    try:
        name = find_format(content)
        image = open_image(content, max_pixels=max_pixels)
    except ImageFileError as cause:
        raise ImageRejectedError(cause.reason, cause.message) from cause
    width, height = image.size
    return ImageHeader(format=name, size_hw=(width, height) if _is_transposed(image) else (height, width))


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
