"""One reader of images for training, evaluation and super-resolution, held to the pixels of the service's."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsr_gateway._images.decode import Picture
from clipsr_gateway._images.encode import OUTPUT_FORMATS
from clipsr_gateway._images.encode import encode as served_encode
from clipsr_serving.errors import InputError
from clipsr_serving.images import read_image as served_image
from clipsr_training._cli.evaluate import main
from clipsr_training.data import check_ending, check_images, decode, encode, open_set, read_image, read_pairs
from clipsr_training.data._images import find_objection, read_size
from clipsr_training.data._route_table import is_lossy
from clipsr_training.liif import ModulatedLIIF, save_liif
from clipsr_training.liif._data import read_images
from clipsr_training.liif._encoders import EDSR
from clipsr_training.liif._evaluate import list_images


def rgb(seed: int = 0, size: tuple[int, int] = (9, 7)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def rgba() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 4), dtype=np.uint8))


def ramp(dtype: type, largest: float) -> Image.Image:
    return Image.fromarray(np.linspace(0, largest, 63).reshape(7, 9).astype(dtype))


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> dict[str, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def readable() -> dict[str, bytes]:
    palette = rgb().quantize(8)
    files = {
        "grey": file(rgb().convert("L"), "PNG"),
        "grey and alpha": file(rgba().convert("LA"), "PNG"),
        "one bit": file(rgb().convert("1"), "PNG"),
        "palette": file(palette, "PNG"),
        "palette, one colour clear": file(palette, "PNG", transparency=3),
        "RGB, one colour clear": file(rgb(), "PNG", transparency=rgb().getpixel((2, 3))),
        "RGBA": file(rgba(), "PNG"),
        "WebP with alpha": file(rgba(), "WEBP", lossless=True),
        "16 bit PNG": file(ramp(np.uint16, 65535), "PNG"),
        "dark 16 bit PNG": file(ramp(np.uint16, 700), "PNG"),
        "16 bit TIFF": file(ramp(np.uint16, 65535), "TIFF"),
        "16 bit TIFF, big-endian": file(Image.frombytes("I;16B", (9, 7), bytes(range(126))), "TIFF"),
        "16 bits in 32": file(ramp(np.int32, 65535), "TIFF"),
        "CMYK": file(rgb().convert("CMYK"), "JPEG"),
        "animation": file(rgb(0), "GIF", save_all=True, append_images=[rgb(1)]),
        "BMP": file(rgb(), "BMP"),
        "damaged EXIF": file(rgb(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
    }
    return files | {f"orientation {i}": file(rgb(), "JPEG", **turned(i)) for i in range(10)}


def unreadable() -> dict[str, bytes]:
    return {
        "float": file(ramp(np.float32, 1), "TIFF"),
        "32 bits": file(ramp(np.int32, 2**31 - 1), "TIFF"),
        "negative": file(Image.fromarray(np.full((7, 9), -1, dtype=np.int32)), "TIFF"),
        "cut short": file(rgb(size=(90, 90)), "JPEG")[:-600],
        "cut in the header": file(rgb(), "PNG")[:20],
        "of another format": file(rgb(), "PPM"),
        "text": b"text",
        "nothing": b"",
    }


@pytest.mark.parametrize("name", sorted(readable()))
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, of damaged EXIF
def test_pixels_are_those_of_the_service(name):
    content = readable()[name]
    expected = np.asarray(served_image(content))
    assert np.array_equal(np.asarray(decode(content, "x")), expected)
    assert find_objection(content) is None


@pytest.mark.parametrize("name", sorted(unreadable()))
def test_what_the_service_refuses_is_refused(name):
    content = unreadable()[name]
    with pytest.raises(InputError):
        served_image(content)
    with pytest.raises(ValueError, match=r"row 7 can't be read as an image: .") as caught:
        decode(content, "row 7")
    assert "BytesIO" not in str(caught.value)
    assert find_objection(content)


def test_heic_that_cannot_be_read_here_is_named_and_not_left_out(tmp_path):
    """Without the extra `heif`."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(200))
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from clipsr_training.data import check_images, open_set\n"
        "check_images(open_set(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert re.search(r"1 of 1 images .*: cat/a\.heic \(This is a HEIC image \(one of JPEG, PNG, .*\)\)", done.stderr)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("JPEG", {}, True),
        ("AVIF", {}, True),
        ("HEIF", {}, True),
        ("WEBP", {}, True),
        ("WEBP", {"lossless": True}, False),
        ("PNG", {}, False),
    ],
)
def test_lossy_files_are_told_from_others(kind, options, expected):
    assert is_lossy(file(rgb(), kind, **options)) is expected


def test_a_bright_16_bit_image_is_not_clipped():
    assert np.asarray(decode(readable()["16 bit PNG"], "x"))[..., 0].ravel()[[0, 31, 62]].tolist() == [0, 127, 255]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A class of images that need care, 16 bits, alpha and a turned one, each once."""
    folder = tmp_path / "odd" / "cat"
    folder.mkdir(parents=True)
    for name, ending in (("16 bit PNG", "png"), ("RGBA", "png"), ("orientation 6", "jpg"), ("animation", "gif")):
        (folder / f"{name}.{ending}").write_bytes(readable()[name])
    return folder.parent


def test_every_command_reads_images_alike(odd):
    """Class data, training pairs, upscaler training and `eval sr`."""
    expected = [np.asarray(served_image(path.read_bytes())) for path in sorted((odd / "cat").iterdir())]
    images, pairs = open_set(str(odd)), read_pairs(odd)
    as_read = [
        [np.asarray(decode(images.read(i), "x")) for i in range(4)],
        [np.asarray(pairs.image(i)) for i in range(4)],
        read_images([odd]),
        [read_image(path) for path in list_images(odd / "cat")],
    ]
    for found in as_read:
        assert [np.array_equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * 4
    assert [read_size(images.read(i), "x") for i in range(4)] == [(9, 7)] * 4


def test_checks_find_pixels_without_a_range(odd):
    (odd / "cat" / "float.tif").write_bytes(unreadable()["float"])
    with pytest.raises(ValueError, match=r"1 of 5 images of odd .* cat/float\.tif \(floating-point pixels"):
        check_images(open_set(str(odd)))
    with pytest.raises(ValueError, match=r"1 of 5 images of odd .* cat/float\.tif \(floating-point pixels"):
        read_pairs(odd).check()


def test_super_resolution_is_measured_on_what_is_seen(tmp_path):
    """A clear image is white, whatever colour lies under its alpha: bicubic interpolation is exact there."""
    folder = tmp_path / "clear"
    folder.mkdir()
    pixels = np.dstack([np.asarray(rgb(size=(48, 48))), np.zeros((48, 48), dtype=np.uint8)])
    Image.fromarray(pixels).save(folder / "a.png")
    save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=4), latent_dim=8, hidden_dim=4), tmp_path / "x.safetensors")
    command = ["sr", "--checkpoint", str(tmp_path / "x.safetensors"), "--data", str(folder), "--scales", "2"]
    assert main([*command, "--output", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert report["sets"][0]["scales"][0]["methods"]["bicubic"]["ssim"] == 1


def test_what_macos_leaves_beside_files_is_no_image(tmp_path):
    folder = tmp_path / "set"
    for name in ("cat/a.png", "cat/._a.png", "cat/.thumbs/b.png", "__MACOSX/cat/._a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7" if "._" in name else file(rgb(), "PNG"))
    images = open_set(str(folder))
    assert (images.classnames, images.names) == (("cat",), ["cat/a.png"])
    assert len(read_images([folder])) == 1
    assert [path.name for path in list_images(folder / "cat")] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "number"),
    [("x.png", 1), ("x.jpg", 2), ("x.JPEG", 2), ("x.webp", 3), ("x.tiff", 4), ("x.tif", 4), ("x.bmp", 5)],
)
def test_files_are_written_as_the_service_writes_them(name, number):
    path = Path(name)
    check_ending(path)
    pixels = np.asarray(rgb(size=(40, 30)))
    picture = Picture(color=pixels.transpose(2, 0, 1), alpha=None, icc_profile=None)
    assert encode(Image.fromarray(pixels), path) == served_encode(picture, OUTPUT_FORMATS[number])


@pytest.mark.parametrize("name", ["x.gif", "x", "x.svg"])
def test_other_endings_are_refused(name):
    with pytest.raises(ValueError, match=r"must end in \.png, \.jpg, \.webp, \.tiff, \.bmp, \.jpeg, \.tif"):
        check_ending(Path(name))
