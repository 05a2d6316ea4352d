"""Gateway, serving and training read image files alike: one code, of which each, installed by itself, has a copy."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsr._formats import ENDING_OF_MEDIA_TYPE, IMAGE_ENDINGS
from clipsr_gateway import ImageRejectedError
from clipsr_gateway._images.decode import Picture, decode
from clipsr_gateway._images.file import FORMATS, MEDIA_TYPES
from clipsr_gateway._images.header import read_header
from clipsr_serving.errors import InputError
from clipsr_serving.images import read_image
from clipsr_training.data import IMAGE_ENDINGS as TRAINING_ENDINGS
from clipsr_training.data import decode as decode_for_training
from clipsr_training.data._images import find_objection
from tests.serving.images.test_images import FOREIGN, PHONES

ROOT = Path(__file__).resolve().parents[2]
SERVING = ROOT / "serving/src/clipsr_serving/images/_file.py"
GATEWAY = ROOT / "gateway/src/clipsr_gateway/_images/file.py"
TRAINING = ROOT / "training/src/clipsr_training/data/_image_file.py"
MANY = 10**9
END = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def encode(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def behind(content: bytes, added: bytes) -> bytes:
    """A PNG with a chunk behind its pixels."""
    assert content.endswith(END)
    return content.removesuffix(END) + added + END


def picture(mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:24, 0:40]
    return Image.fromarray(np.stack([rows * 10, columns * 6, rows + columns], -1).astype(np.uint8)).convert(mode)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def deep(transparent: int) -> bytes:
    """Grey of 16 bits whose left half is 7 * 257, with one value that is transparent."""
    grey = np.full((8, 8), 120 * 257, np.uint16)
    grey[:, :4] = 7 * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in grey)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 0, 0, 0, 0))
    mark = chunk(b"tRNS", struct.pack(">H", transparent))
    return b"\x89PNG\r\n\x1a\n" + header + mark + chunk(b"IDAT", zlib.compress(rows)) + END


def xmp(orientation: int) -> bytes:
    text = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="{orientation}"/>'
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text.encode())


def old_exif(orientation: int) -> bytes:
    block = exif(orientation)
    text = f"\nexif\n{len(block):8d}\n{block.hex()}\n".encode()
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


def over_white(read: Picture) -> np.ndarray:
    """What a picture of the gateway looks like on white, [H, W, 3]."""
    color = np.repeat(read.color, 3, axis=0) if read.is_grey else read.color
    image = Image.fromarray(color.transpose(1, 2, 0)).convert("RGBA")
    if read.alpha is not None:
        image.putalpha(Image.fromarray(read.alpha[0]))
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


def read_whole(content: bytes) -> Picture:
    """What the gateway does with a file: the header first."""
    read_header(content, max_pixels=MANY)
    return decode(content)


READ = {
    "grey of 16 bits, transparent": deep(7 * 257),
    "grey of 16 bits, next to transparent": deep(7 * 257 + 1),
    "grey and alpha": encode(picture("LA")),
    "grey and alpha with a profile": encode(picture("LA"), icc_profile=bytes(16) + b"GRAY" + bytes(200)),
    "a profile that unpacks to too much": encode(picture(), icc_profile=bytes(5_000_000)),
    "a text that unpacks to too much": behind(
        encode(picture()), chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(5_000_000)))
    ),
    "palette, transparent": encode(picture("P"), transparency=3),
    "CMYK": encode(picture("CMYK"), "JPEG"),
    "JPEG without end": encode(picture(), "JPEG")[:-2],
    "TIFF behind its thumbnail": encode(
        Image.new("RGB", (12, 12), "red"), "TIFF", tiffinfo={254: 1}, save_all=True, append_images=[picture()]
    ),
    **{f"{name} with alpha": encode(picture("RGBA"), name) for name in ("WEBP", "AVIF", "HEIF")},
    "MPO": encode(picture(), "MPO", save_all=True, append_images=[picture()]),
    **{f"eXIf {n} behind": behind(encode(picture()), chunk(b"eXIf", exif(n)[6:])) for n in range(1, 9)},
    **{f"XMP {n} behind": behind(encode(picture()), xmp(n)) for n in (3, 6)},
    **{f"old EXIF {n} behind": behind(encode(picture()), old_exif(n)) for n in (3, 6)},
    **{
        f"{name} turned {n}": encode(picture(), name, exif=exif(n))
        for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")
        for n in (2, 3, 6, 7)
    },
}

REFUSED = {
    **FOREIGN,
    **PHONES,
    "no image": b"hello",
    "float": encode(Image.new("F", (4, 4), 0.5), "TIFF"),
    **{f"half a {name}": encode(picture(), name)[:-700] for name in ("JPEG", "BMP", "TIFF")},
    "a WebP without its last byte": encode(picture(), "WEBP")[:-1],
    "JPEG cut within its profile": encode(picture(), "JPEG", icc_profile=bytes(30_000))[:5_000],
    "PNG signature": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("copy", [GATEWAY, TRAINING], ids=lambda path: path.relative_to(ROOT).parts[0])
def test_all_rooms_have_the_same_code(copy):
    assert SERVING.read_bytes() == copy.read_bytes(), f"cp {SERVING.relative_to(ROOT)} {copy.relative_to(ROOT)}"


def test_both_rooms_limit_decoding_alike():
    serving, gateway = (
        ROOT / room
        for room in (
            "serving/src/clipsr_serving/images/_cpu_limit.py",
            "gateway/src/clipsr_gateway/_images/cpu_limit.py",
        )
    )
    assert serving.read_bytes() == gateway.read_bytes(), f"cp {gateway.relative_to(ROOT)} {serving.relative_to(ROOT)}"


def test_the_client_has_an_ending_for_each_format_and_knows_those_of_pillow():
    assert set(MEDIA_TYPES.values()) <= set(ENDING_OF_MEDIA_TYPE)
    Image.init()
    known = {ending for ending, name in Image.registered_extensions().items() if name in (*FORMATS, "MPO")}
    assert (
        known - {".dib", ".apng", ".heifs", ".heics", ".avifs"} <= IMAGE_ENDINGS
    )  # animations; a bitmap without header


def test_training_takes_the_same_files_from_a_folder():
    assert TRAINING_ENDINGS == IMAGE_ENDINGS


@pytest.mark.parametrize("name", READ)
def test_all_rooms_see_the_same(name):
    content = READ[name]
    ours, theirs = read_whole(content), np.asarray(read_image(content))
    assert np.array_equal(np.asarray(decode_for_training(content, "x")), theirs)
    assert find_objection(content) is None
    assert np.array_equal(over_white(ours), theirs)
    assert read_header(content, max_pixels=MANY).size_hw == ours.size_hw == theirs.shape[:2]


@pytest.mark.parametrize("name", REFUSED)
def test_all_rooms_refuse_with_the_same_words(name):
    with pytest.raises(InputError) as theirs:
        read_image(REFUSED[name])
    with pytest.raises(ImageRejectedError) as ours:
        read_whole(REFUSED[name])
    with pytest.raises(ValueError, match="row 7 can't be read as an image") as trained:
        decode_for_training(REFUSED[name], "row 7")
    assert str(trained.value).endswith(str(find_objection(REFUSED[name])))
    assert ours.value.reason == theirs.value.reason
    if name != "float":  # one of them classifies, the other upscales
        assert ours.value.message == theirs.value.message
        assert theirs.value.message.partition(";")[0] in str(trained.value)
