"""Image files: what they are, their header, and their pixels upright.

The first bytes decide: a supported format that cannot be opened is damaged, a foreign one is named with the way out.

Gateway, serving and training read images alike and are installed separately, so each has this file, byte for byte the
same (tests/contract/test_image_reader.py). It knows Pillow and nothing of the rooms.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile


def _find_optional_types() -> dict[str, str]:
    """Find what this installation reads besides, each with one thread, as many images are decoded at once."""
    found: dict[str, str] = {}
    with contextlib.suppress(ImportError):
        from PIL import AvifImagePlugin  # Pillow 11.3 and later, where it was built with libavif

        if AvifImagePlugin.SUPPORTED:
            AvifImagePlugin.DEFAULT_MAX_THREADS = 1
            found["AVIF"] = "image/avif"
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener  # pyright: ignore[reportUnknownVariableType]  # extra `heif`

        register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
        found["HEIF"] = "image/heic"
    return found


# What the API promises, by Pillow's names. Pillow knows dozens more, each a parser that strangers could feed.
MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
    **_find_optional_types(),
}
FORMATS = tuple(MEDIA_TYPES)
_TITLES = {name: name for name in FORMATS} | {"WEBP": "WebP", "HEIF": "HEIC"}

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    _PNG_SIGNATURE: "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"\xff\x0a": "a JPEG XL image",
    b"\x00\x00\x00\x0cJXL ": "a JPEG XL image",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000 image",
    b"II+\x00": "a BigTIFF image",
    b"MM\x00+": "a BigTIFF image",
    b"8BPS": "a Photoshop document",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a ZIP archive or office document",
}
# Brands of ISO media files that hold images (ISO/IEC 23008-12, sections B.4 and 10; AVIF, section 3). The last two say
# nothing of the coding; what the file is compatible with does.
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_GENERAL_BRANDS = (b"mif1", b"msf1")
_FOREIGN = {"AVIF": "an AVIF image", "HEIF": "a HEIC image"}
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

# What describes the pixels of a PNG: orientation and profile. Everything else that is not critical (text of any size,
# dates, animation) is left out before Pillow sees it, and with it whatever is wrong there.
_DESCRIBING_CHUNKS = (b"eXIf", b"iCCP")
# Older programs write EXIF as text under this keyword, and XMP as the other.
_DESCRIBING_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_MAX_DESCRIBING_BYTES = 1024 * 1024  # unpacked; beyond it Pillow takes the whole image for damaged
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
    size = image.size
    try:
        image.load()
    except Exception as error:  # plugins raise whatever damaged bytes provoke
        if name != "JPEG" or _END_OF_IMAGE in content[-64:]:
            raise _damaged(name) from error
        return _load_without_end(content, max_pixels)
    if image.size != size:  # HEIC: what is coded contradicts the header
        raise _damaged(name)
    return image


def find_format(content: bytes) -> str:
    """Name the format by the first bytes: one of FORMATS.

    Raises:
        ImageFileError: IMAGE_UNRECOGNIZED, naming what it is where that is known.
    """
    name = next((name for signature, name in _SIGNATURES.items() if content.startswith(signature)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        name = "WEBP"
    elif content[4:8] == b"ftyp":
        name = _find_coding(content)
    if name in MEDIA_TYPES:
        return name
    foreign = _name_foreign(content) if name is None else _FOREIGN.get(name, name)
    what = "The bytes are not an image in a supported format" if foreign is None else f"This is {foreign}"
    if foreign == "a Git LFS pointer":
        cure = "run `git lfs pull` and send the file that it stands for"
    else:
        *titles, last = (_TITLES[name] for name in FORMATS)
        cure = f"send a {', '.join(titles)} or {last} file"
    raise ImageFileError("IMAGE_UNRECOGNIZED", f"{what}; {cure}.")


def _find_coding(content: bytes) -> str:
    """Name the format of an ISO media file. Source: ISO/IEC 14496-12, section 4.3."""
    brand = content[8:12].lower()
    end = min(int.from_bytes(content[:4], "big"), _SNIFFED_BYTES)
    if brand in _AVIF_BRANDS:
        return "AVIF"
    if brand in _GENERAL_BRANDS:
        is_avif = any(content[start : start + 4] in _AVIF_BRANDS for start in range(16, end, 4))
        return "AVIF" if is_avif else "HEIF"
    return "HEIF" if brand in _HEIC_BRANDS else "a video or other ISO media file"


def _name_foreign(content: bytes) -> str | None:
    if content.startswith(_LFS_POINTER):
        return "a Git LFS pointer"
    text = content[:_SNIFFED_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg")) and b"<svg" in text:
        return "an SVG drawing"
    return None


def _open(content: bytes, name: str, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=(name,))
        if isinstance(image, TiffImageFile):
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


def _skip_thumbnails(image: TiffImageFile) -> None:
    """Go to the first page that is not a reduced form of another; to the largest where all say so."""
    largest, largest_px = 0, 0
    for page in range(_MAX_TIFF_PAGES):
        try:
            image.seek(page)
        except EOFError:
            break
        if not int(image.tag_v2.get(_SUBFILE_TYPE_TAG, 0)) & 1:
            return
        if image.width * image.height > largest_px:
            largest, largest_px = page, image.width * image.height
    image.seek(largest)


def _damaged(name: str) -> ImageFileError:
    message = f"The {_TITLES[name]} file is damaged or cut short and cannot be decoded; send it again in full."
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
    """Leave out of a PNG what is not needed, and put what describes its pixels before them, as a header's reader needs.

    Source: PNG specification, third edition, section 5.4 (a small first letter marks a chunk that is not critical).
    """
    if name != "PNG":
        return content
    pixels: list[bytes] = []
    describing: dict[bytes, bytes] = {}
    for kind, chunk in _split_png(content):
        if not kind[:1].islower() or (kind == b"tRNS" and _is_sound(kind, chunk)):
            pixels.append(chunk)
        elif kind in _DESCRIBING_CHUNKS:
            describing.setdefault(kind, chunk)
        elif kind in _TEXT_CHUNKS and (keyword := chunk[8:].partition(b"\0")[0]) in _DESCRIBING_TEXTS:
            describing.setdefault(keyword, chunk)
    sound = [chunk for chunk in describing.values() if _is_sound(chunk[4:8], chunk)]
    return b"".join([_PNG_SIGNATURE, *pixels[:1], *sound, *pixels[1:]])


def _split_png(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and bytes of each chunk up to the end of the image; one that is cut short comes as it is."""
    position = len(_PNG_SIGNATURE)
    while position < len(content):
        kind = content[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        yield kind, content[position:end]
        if kind == b"IEND":
            return
        position = end


def _is_sound(kind: bytes, chunk: bytes) -> bool:
    """Say whether the checksum is right, and what is compressed unpacks to a sensible size."""
    if not 12 <= len(chunk) <= _MAX_DESCRIBING_BYTES or struct.unpack(">I", chunk[-4:])[0] != zlib.crc32(chunk[4:-4]):
        return False
    rest = chunk[8:-4].partition(b"\0")[2]
    if kind == b"iTXt" and rest[:1] == b"\1":
        rest = rest[1:2] + rest[2:].split(b"\0", 2)[-1]
    elif kind not in (b"zTXt", b"iCCP"):
        return True
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(rest[1:], _MAX_DESCRIBING_BYTES)
    except zlib.error:
        return False
    return rest[:1] == b"\0" and not unpacker.unconsumed_tail


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
