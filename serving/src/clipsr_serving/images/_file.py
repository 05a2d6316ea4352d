"""Image files: what they are, their header, and their pixels upright. Knows Pillow and nothing of this room.

The first bytes decide: a supported format that cannot be opened is damaged, a foreign one is named with the way out.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

# What the API promises. Pillow knows dozens more, each a parser that strangers could feed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SUPPORTED = {
    b"\xff\xd8\xff": "JPEG",
    _PNG_SIGNATURE: "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
_FOREIGN = {
    b"\xff\x0a": "JPEG XL image",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL image",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000 image",
    b"II+\x00": "BigTIFF image",
    b"MM\x00+": "BigTIFF image",
    b"8BPS": "Photoshop document",
    b"%PDF-": "PDF document",
    b"PK\x03\x04": "ZIP archive or office document",
}
# Major brands of ISO media files, ISO/IEC 23008-12 and the AVIF specification; any other is a video.
_BRANDS = {b"avif": "AVIF image", b"avis": "AVIF image"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC image"
)
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_SNIFFED_BYTES = 1024

_EXIF_ORIENTATION_TAG = 0x0112  # TIFF 6.0, section 8, tag 274
_TRANSPOSE_OF_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SUBFILE_TYPE_TAG = 254  # TIFF 6.0, section 8, NewSubfileType: bit 0 marks a reduced-resolution page
_MAX_TIFF_PAGES = 8

# PNG chunks that an image needs or that turn it upright. Everything else (profiles, text of any size, dates,
# animation) is left out before Pillow sees it, and with it whatever is wrong there.
_KEPT_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
# Older programs write EXIF as text under this keyword, and XMP as the other.
_KEPT_TEXTS = (b"Raw profile type exif\x00", b"XML:com.adobe.xmp\x00")
_MAX_KEPT_TEXT_BYTES = 256 * 1024
_END_OF_IMAGE = b"\xff\xd9"
# Entropy-coded data that no encoder ends with: it changes the pixels wherever some are missing.
_FILLER = b"\x55" * 4096


class ImageFileError(Exception):
    """The file cannot be read.

    Attributes:
        reason: IMAGE_UNRECOGNIZED, IMAGE_TRUNCATED or IMAGE_TOO_MANY_PIXELS.
        message: what is wrong and what to do.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def open_image(content: bytes, *, max_pixels: int) -> Image.Image:
    """Read the header only.

    Raises:
        ImageFileError: IMAGE_UNRECOGNIZED, IMAGE_TRUNCATED or IMAGE_TOO_MANY_PIXELS.
    """
    return _open(_tidy(content, find_format(content)), find_format(content), max_pixels)


def load_image(content: bytes, *, max_pixels: int) -> Image.Image:
    """Decode the first frame, or a TIFF's first page that is no thumbnail, as it is stored.

    Raises:
        ImageFileError: IMAGE_UNRECOGNIZED, IMAGE_TRUNCATED or IMAGE_TOO_MANY_PIXELS.
    """
    name = find_format(content)
    content = _tidy(content, name)
    image = _open(content, name, max_pixels)
    try:
        image.load()
    except Exception as error:  # plugins raise whatever damaged bytes provoke
        if name != "JPEG" or _END_OF_IMAGE in content[-64:]:
            raise _damaged(name) from error
        return _load_without_end(content, max_pixels)
    return image


def find_format(content: bytes) -> str:
    """Name the format by the first bytes: one of FORMATS.

    Raises:
        ImageFileError: IMAGE_UNRECOGNIZED, naming what it is where that is known.
    """
    for signature, name in _SUPPORTED.items():
        if content.startswith(signature):
            return name
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    foreign = _name_foreign(content)
    what = "The bytes are not an image in a supported format" if foreign is None else f"This is a {foreign}"
    if foreign == "Git LFS pointer":
        cure = "run `git lfs pull` and send the file that it stands for"
    else:
        cure = "send a JPEG, PNG, WebP, GIF, BMP or TIFF file"
    raise ImageFileError("IMAGE_UNRECOGNIZED", f"{what}; {cure}.")


def _name_foreign(content: bytes) -> str | None:
    for signature, name in _FOREIGN.items():
        if content.startswith(signature):
            return name
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12].lower(), "video or other ISO media file")
    if content.startswith(_LFS_POINTER):
        return "Git LFS pointer"
    text = content[:_SNIFFED_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "HTML page"
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg")) and b"<svg" in text:
        return "SVG drawing"
    return None


def _open(content: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=(name,))
        if name == "TIFF":
            _skip_thumbnails(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels("more pixels", max_pixels) from error
    except Exception as error:  # Pillow's parsers let through whatever they trip over
        raise _damaged(name) from error
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageFileError("IMAGE_UNRECOGNIZED", f"The header says {width}x{height} pixels; send a valid file.")
    if width * height > max_pixels:
        raise _too_many_pixels(f"{width}x{height} pixels", max_pixels)
    return image


def _skip_thumbnails(image: Image.Image) -> None:
    """Go to the first page that is not a reduced form of another; to the largest where all say so."""
    largest, largest_px = 0, 0
    for page in range(_MAX_TIFF_PAGES):
        try:
            image.seek(page)
        except EOFError:
            break
        if not int(image.tag_v2.get(_SUBFILE_TYPE_TAG, 0)) & 1:  # pyright: ignore[reportAttributeAccessIssue]  # a TIFF
            return
        if image.width * image.height > largest_px:
            largest, largest_px = page, image.width * image.height
    image.seek(largest)


def _damaged(name: str) -> ImageFileError:
    message = f"The {name} file is damaged or cut short and cannot be decoded; send it again in full."
    return ImageFileError("IMAGE_TRUNCATED", message)


def _too_many_pixels(found: str, max_pixels: int) -> ImageFileError:
    message = f"The image has {found}, beyond the {max_pixels:,} allowed; reduce it before sending."
    return ImageFileError("IMAGE_TOO_MANY_PIXELS", message)


def _load_without_end(content: bytes, max_pixels: int) -> Image.Image:
    """Decode a JPEG that lacks its end marker, as some cameras write it, if it has all its pixels.

    libjpeg fills up what is missing. Pixels that come from the file stay the same whatever follows it; those that are
    filled up do not.
    """
    try:
        content = content.removesuffix(_END_OF_IMAGE[:1])
        images = [_open(content + tail + _END_OF_IMAGE, "JPEG", max_pixels) for tail in (b"", _FILLER)]
        plain, filled = (image.tobytes() for image in images)
    except Exception as error:
        raise _damaged("JPEG") from error
    if plain != filled:
        raise _damaged("JPEG")
    return images[0]


def _tidy(content: bytes, name: str) -> bytes:
    """Leave out of a PNG what is not needed, and put its EXIF before the pixels, where a header's reader finds it."""
    if name != "PNG":
        return content
    chunks = list(_split_png(content))
    first = [chunk for kind, chunk in chunks if kind == b"eXIf"]
    kept = [chunk for kind, chunk in chunks if kind not in (b"IHDR", b"eXIf")]
    head = [chunk for kind, chunk in chunks if kind == b"IHDR"]
    return b"".join([_PNG_SIGNATURE, *head[:1], *first[:1], *kept])


def _split_png(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks that are kept: type and bytes. A chunk that is cut short, and what follows it, comes as it is.

    Source: PNG specification, third edition, sections 5.3 and 5.4 (a small first letter marks what is not critical).
    """
    position = len(_PNG_SIGNATURE)
    while position < len(content):
        kind = content[position + 4 : position + 8]
        length = int.from_bytes(content[position : position + 4], "big")
        end = position + 12 + length
        chunk = content[position:end]
        is_critical = not kind[:1].islower()
        if is_critical or (_is_kept(kind, chunk) and _is_sound(chunk)):
            yield kind, chunk
        if kind == b"IEND":
            return
        position = end


def _is_kept(kind: bytes, chunk: bytes) -> bool:
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        return chunk[8:].startswith(_KEPT_TEXTS) and len(chunk) <= _MAX_KEPT_TEXT_BYTES
    return kind in _KEPT_CHUNKS


def _is_sound(chunk: bytes) -> bool:
    return len(chunk) >= 12 and struct.unpack(">I", chunk[-4:])[0] == zlib.crc32(chunk[4:-4])


def make_upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION_TAG)
    except Exception:
        # A damaged EXIF block says nothing of the pixels, which decoded well; other viewers ignore it too.
        return image
    method = _TRANSPOSE_OF_ORIENTATION.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Return grey of 16 bits as 8, with an alpha channel where the file names one value as transparent.

    Raises:
        ValueError: the values are not those of 16 bits.
    """
    values = np.asarray(image)
    if values.size and (int(values.min()) < 0 or int(values.max()) > 65535):
        raise ValueError("32-bit values have no defined range")
    # 65535 / 257 = 255 exactly; 128 rounds to the nearest.
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey
