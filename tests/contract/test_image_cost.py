"""Images that cost more than their pixels: refused by gateway and serving alike, before a parser sees them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsr_gateway import ImageRejectedError, Limits
from clipsr_gateway._images.cost import MAX_PARTS, MAX_WORK_PIXELS, ImageCostError, check_parts, count_work_pixels
from clipsr_gateway._images.header import check_image
from clipsr_serving.errors import InputError
from clipsr_serving.images import read_image

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = ROOT / "gateway/src/clipsr_gateway/_images/cost.py"
SERVING = ROOT / "serving/src/clipsr_serving/images/_cost.py"
MANY = MAX_PARTS + 1
SOI = b"\xff\xd8"


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB", side: int = 32) -> Image.Image:
    rows, columns = np.mgrid[0:side, 0:side]
    return Image.fromarray(np.stack([rows * 7, columns * 7, rows + columns], -1).astype(np.uint8)).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def scans(side: int, count: int) -> bytes:
    """A progressive JPEG whose last scan comes `count` times."""
    plain = encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = plain[plain.rfind(b"\xff\xda") : -2]
    return plain[:-2] + last * count + plain[-2:]


def directory(entries: list[tuple[int, int, int, int]], *, size: int = 0) -> bytes:
    """A TIFF file, or an EXIF block, of (tag, type, count, value), followed by zeros up to `size` bytes."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    block = b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4)
    return block + bytes(max(0, size - len(block)))


def tiff(*, strips: int) -> bytes:
    """One column of grey pixels, a strip each."""
    at = 8 + 2 + 12 * 9 + 4
    arrays = struct.pack(f"<{strips}I", *[at + 8 * strips] * strips) + struct.pack(f"<{strips}I", *[1] * strips)
    values = {256: 1, 257: strips, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    entries = [(tag, 4, 1, value) for tag, value in values.items()]
    entries += [(273, 4, strips, at), (279, 4, strips, at + 4 * strips)]
    return directory(sorted(entries)) + arrays + b"\x80"


def rle_bmp(rows: int) -> bytes:
    """64 x 64 pixels, and more rows than that if wanted."""
    data = (b"\x01a" * 64 + b"\0\0") * rows + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(data), 0, 0, 54 + 1024) + head + bytes(1024) + data


JPEG, PNG, GIF = (encode(picture(), name) for name in ("JPEG", "PNG", "GIF"))
GIF_HEAD = 13 + (3 << (GIF[10] & 7) + 1)
# Values of 60,000 bytes that all lie on each other: a gigabyte for whoever reads them.
OVERLAPPING = directory([(40_000 + n, 1, 900_000, 50_000) for n in range(1_200)], size=1_000_000)
HEX = (
    b"\nexif\n%8d\n" % 65_000
    + directory([(40_000 + n, 1, 40_000, 200) for n in range(2_000)], size=65_000).hex().encode()
)

REFUSED = {
    "scans": scans(4096, 1_500),
    "fill bytes": SOI + b"\xff" * MANY + JPEG[2:],
    "segments": SOI + b"\xff\xe5\0\2" * MANY + JPEG[2:],
    "EXIF of JPEG": SOI
    + b"".join(
        b"\xff\xe1" + struct.pack(">H", 8 + len(part)) + b"Exif\0\0" + part
        for part in (OVERLAPPING[at : at + 60_000] for at in range(0, len(OVERLAPPING), 60_000))
    )
    + JPEG[2:],
    "texts before the pixels": PNG[:33] + chunk(b"tEXt", b"a\0") * MANY + PNG[33:],
    "texts behind the pixels": PNG[:-12] + chunk(b"tEXt", b"a\0") * MANY + PNG[-12:],
    "empty IDAT": PNG[:33] + chunk(b"IDAT", b"") * MANY + PNG[33:],
    "EXIF of PNG": PNG[:33] + chunk(b"eXIf", OVERLAPPING) + PNG[33:],
    "EXIF as packed text": PNG[:33] + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEX)) + PNG[33:],
    "EXIF as text that unpacks to too much": PNG[:33]
    + chunk(b"iTXt", b"Raw profile type exif\0\1\0\0\0" + zlib.compress(bytes(10**6)))
    + PNG[33:],
    "comment in small blocks": GIF[:GIF_HEAD] + b"\x21\xfe" + b"\1a" * MANY + b"\0" + GIF[GIF_HEAD:],
    "comment in large blocks": GIF[:GIF_HEAD] + b"\x21\xfe" + (b"\xff" + bytes(255)) * 200 + b"\0" + GIF[GIF_HEAD:],
    "extensions": GIF[:GIF_HEAD] + b"\x21\xf1\1a\0" * MANY + GIF[GIF_HEAD:],
    "strips": tiff(strips=MANY),
    "entries": directory([(60_000, 3, 1, 1)] * MANY),
    "values": OVERLAPPING,
    "run lengths": rle_bmp(MAX_WORK_PIXELS // 32 // 128),
}

ACCEPTED = {
    "baseline": JPEG,
    "progressive": encode(picture(), "JPEG", progressive=True, quality=95, subsampling=0),
    "progressive with thumbnail": encode(
        picture(), "JPEG", progressive=True, exif=b"Exif\0\0" + directory([(0x0112, 3, 1, 1)]) + scans(16, 1)
    ),
    "many pictures in one file": encode(picture(), "MPO", save_all=True, append_images=[picture()] * 30),
    "a profile in many segments": encode(picture(), "JPEG", icc_profile=bytes(3_000_000)),
    "thousands of small scans": scans(16, 2_000),
    "PNG in small chunks": PNG[:33] + chunk(b"tEXt", b"a\0b") * 20_000 + PNG[33:],
    "GIF of many frames": encode(
        picture("P"), "GIF", save_all=True, append_images=[Image.new("P", (32, 32), n) for n in range(200)]
    ),
    "GIF with comment": encode(picture("P"), "GIF", comment=b"made by hand" * 100),
    "WebP of many frames": encode(picture(), "WEBP", save_all=True, append_images=[picture(side=32)] * 50),
    "EXIF that is damaged": encode(
        picture(), "JPEG", exif=b"Exif\0\0" + directory([(40_000 + n, 1, 0xFFFFFFFF, 9) for n in range(40)])
    ),
    "a strip a row": tiff(strips=8_192),
    "TIFF": encode(picture(), "TIFF"),
    "run-length encoded": rle_bmp(64),
}


def test_both_rooms_have_the_same_code():
    assert SERVING.read_bytes() == GATEWAY.read_bytes(), f"cp {GATEWAY.relative_to(ROOT)} {SERVING.relative_to(ROOT)}"


@pytest.mark.parametrize("name", REFUSED)
def test_both_rooms_refuse_with_the_same_words(name):
    with pytest.raises(ImageRejectedError) as ours:
        check_image(REFUSED[name], limits=Limits(max_image_bytes=10**9, max_image_pixels=10**9))
    assert ours.value.reason == "IMAGE_TOO_COMPLEX"
    if len(REFUSED[name]) <= Limits().max_image_bytes:
        with pytest.raises(InputError) as theirs:
            read_image(REFUSED[name])
        assert (theirs.value.reason, theirs.value.message) == ("IMAGE_TOO_COMPLEX", ours.value.message)


@pytest.mark.filterwarnings("ignore:Truncated File Read")  # Pillow's, of the damaged EXIF
@pytest.mark.parametrize("name", ACCEPTED)
def test_what_encoders_write_passes(name):
    header = check_image(ACCEPTED[name], limits=Limits())
    assert header.work_pixels >= header.size_hw[0] * header.size_hw[1]
    assert read_image(ACCEPTED[name]).size == header.size_hw[::-1]


def test_scans_are_charged():
    """A scan goes over all pixels; ten take as long as the decoding of the same picture without any."""
    side = 640
    assert count_work_pixels(encode(picture(side=side), "JPEG"), (side, side)) == side**2
    many = scans(side, 990)
    assert count_work_pixels(many, (side, side)) == pytest.approx(101 * side**2, rel=0.02)
    assert check_image(many, limits=Limits()).work_pixels == count_work_pixels(many, (side, side))


def test_the_largest_progressive_jpeg_passes():
    plain = encode(picture(), "JPEG", progressive=True)
    assert count_work_pixels(plain, (8192, 8192)) < MAX_WORK_PIXELS


def test_scans_of_a_jpeg_within_a_tiff_are_charged():
    block = directory([(256, 3, 1, 64), (259, 3, 1, 7)]) + scans(64, 300)
    assert count_work_pixels(block, (64, 64)) == 11 * 64 * 64  # libtiff itself stops at a hundred
    assert count_work_pixels(block.replace(struct.pack("<HHII", 259, 3, 1, 7), bytes(12)), (64, 64)) == 64 * 64


@pytest.mark.parametrize("content", [JPEG, PNG, GIF, encode(picture(), "TIFF"), encode(picture(), "WEBP"), rle_bmp(9)])
def test_any_cut_and_any_byte_is_counted_without_a_fault(content):
    """What is damaged is somebody else's to refuse."""
    for end in range(0, min(len(content), 400), 3):
        for damaged in (content[:end], content[:end] + b"\xff" + content[end + 1 :]):
            try:
                check_parts(damaged)
                count_work_pixels(damaged, (8, 8))
            except ImageCostError:
                assert len(damaged) > 100  # a length that was hit
