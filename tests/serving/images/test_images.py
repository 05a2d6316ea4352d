"""Image files to tensors: every kind of file that people send, and every kind of damage."""

from __future__ import annotations

import functools
import importlib
import io
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipsr_serving.errors import InputError
from clipsr_serving.images import (
    FIT_OF_RESIZE_MODE,
    FITS,
    FORMATS,
    make_canvas,
    make_native_pixels,
    pad_to_canvas,
    parse_fit,
    pick_canvas_size,
    place,
    read_image,
)
from clipsr_serving.images._file import open_image
from clipsr_serving.limits import Limits

CANVASES = (32, 64, 128)


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@functools.cache
def gradient(width: int = 40, height: int = 30) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack(
        [rows * 255 // max(1, height - 1), columns * 255 // max(1, width - 1), (rows + columns) % 256], -1
    )
    return Image.fromarray(pixels.astype(np.uint8))


@functools.cache
def encode_small(file_format: str) -> bytes:
    return encode(gradient(24, 17), file_format)


def reason_of(content: bytes, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_image(content, **options)
    assert str(caught.value).startswith(f"clipsr:{caught.value.reason}: ")
    return caught.value.reason


def try_to_read(content: bytes, **options) -> tuple[Image.Image | None, InputError | None]:
    """The image, or the one kind of error that is allowed; any other goes through."""
    try:
        return read_image(content, **options), None
    except InputError as error:
        return None, error


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size; the pixels are one short deflate stream."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(100_000))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class TestRead:
    @pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP", "TIFF"])
    def test_lossless_formats_keep_every_pixel(self, file_format):
        options = {"lossless": True} if file_format == "WEBP" else {}
        assert np.array_equal(read_image(encode(gradient(), file_format, **options)), gradient())

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
    def test_every_mode_becomes_rgb(self, mode):
        source = gradient().convert("L") if mode == "I;16" else gradient().convert(mode)
        if mode == "I;16":
            source = Image.fromarray(np.asarray(source).astype(np.uint16) * 257)
        file_format = {"CMYK": "JPEG", "YCbCr": "JPEG"}.get(mode, "PNG")
        image = read_image(encode(source, file_format))
        assert (image.mode, image.size) == ("RGB", (40, 30))

    def test_16_bit_is_scaled_and_not_cut(self):
        values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
        image = read_image(encode(Image.fromarray(values), "PNG"))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]

    def test_alpha_is_composited_over_white(self):
        pixels = np.zeros((1, 3, 4), np.uint8)
        pixels[0, :, 3] = 0, 128, 255
        image = np.asarray(read_image(encode(Image.fromarray(pixels), "PNG")))
        assert image[0, :, 0].tolist() == [255, 127, 0]

    def test_a_transparent_palette_is_composited_over_white(self):
        source = Image.new("P", (2, 1), 0)
        source.putpalette([0, 0, 0, 255, 0, 0])
        source.putpixel((1, 0), 1)
        image = np.asarray(read_image(encode(source, "PNG", transparency=0)))
        assert image[0].tolist() == [[255, 255, 255], [255, 0, 0]]

    def test_animations_give_their_first_frame(self):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
        content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert read_image(content).getpixel((0, 0)) == (255, 0, 0)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP", "AVIF", "HEIF"])
    def test_exif_orientation_is_applied(self, orientation, file_format):
        upright = gradient()
        undo = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        stored = upright if orientation == 1 else upright.transpose(undo[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"WEBP": {"lossless": True}, "HEIF": {"quality": 95}, "AVIF": {"quality": 95}}.get(file_format, {})
        read = read_image(encode(stored, file_format, exif=exif.tobytes(), **options))
        assert read.size == upright.size
        # A wrong turn is off by 80 levels and more; these codecs are lossy, and halve the resolution of colours.
        assert np.abs(np.asarray(read).astype(int) - np.asarray(upright)).mean() <= (4 if "quality" in options else 0)

    def test_damaged_exif_is_ignored(self):
        content = encode(gradient(), "JPEG", exif=b"Exif\x00\x00garbage that is no TIFF header")
        assert read_image(content).size == (40, 30)

    def test_one_pixel_is_an_image(self):
        assert read_image(encode(Image.new("RGB", (1, 1), "red"), "PNG")).getpixel((0, 0)) == (255, 0, 0)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class TestWhatIsNotNeeded:
    """What surrounds the pixels of a PNG or JPEG does not decide whether they are read."""

    END = png_chunk(b"IEND", b"")

    def add(self, content: bytes, chunk: bytes, *, behind: bool) -> bytes:
        return content[: -len(self.END)] + chunk + self.END if behind else content[:33] + chunk + content[33:]

    @pytest.mark.parametrize("behind", [False, True])
    @pytest.mark.parametrize(
        "chunk",
        [
            png_chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"x" * 2_000_000)),
            png_chunk(b"zTXt", b"x\0\0" + zlib.compress(b"x" * 80_000_000)),
            b"\0\0\0\4tEXta\0bc\0\0\0\0",
            png_chunk(b"tIME", b"no date"),
            b"".join(png_chunk(b"tEXt", b"key\0value") for _ in range(20_000)),
            png_chunk(b"eXIf", b"no exif"),
            png_chunk(b"iCCP", b"no profile"),
        ],
        ids=["large text", "text bomb", "bad checksum", "odd date", "many texts", "odd exif", "odd profile"],
    )
    def test_a_png_is_read_whatever_surrounds_its_pixels(self, chunk, behind):
        content = self.add(encode(gradient(), "PNG"), chunk, behind=behind)
        assert np.array_equal(read_image(content), gradient())

    def test_damage_in_what_is_needed_is_damage(self):
        content = bytearray(encode(gradient(), "PNG"))
        content[content.index(b"IDAT") + 10] ^= 0xFF
        assert reason_of(bytes(content)) == "IMAGE_TRUNCATED"

    def test_exif_behind_the_pixels_turns_the_image(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        content = encode(gradient(), "PNG")
        chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
        turned = [read_image(self.add(content, chunk, behind=behind)) for behind in (False, True)]
        assert turned[0].size == (30, 40)
        assert np.array_equal(*turned)
        header = open_image(self.add(content, chunk, behind=True), max_pixels=10_000)
        assert Image.Image.getexif(header).get(0x0112) == 6, "known from the header alone"

    @pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
    def test_a_jpeg_needs_no_end_marker(self, options):
        content = encode(gradient(200, 150), "JPEG", **options)
        assert np.array_equal(read_image(content[:-2]), read_image(content))
        assert np.array_equal(read_image(content[:-1]), read_image(content))

    def test_a_jpeg_without_pixels_is_cut_short(self):
        content = encode(gradient(200, 150), "JPEG")
        for missing in range(60, len(content) - 4, 97):
            assert reason_of(content[:-missing]) == "IMAGE_TRUNCATED"

    def test_grey_of_16_bits_with_a_transparent_value(self):
        grey = np.full((8, 8), 120, np.uint8)
        grey[:, :4] = 7
        eight = encode(Image.fromarray(grey), "PNG", transparency=7)
        rows = zlib.compress(b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in grey))
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 0, 0, 0, 0))
        parts = [header, png_chunk(b"tRNS", b"\7\7"), png_chunk(b"IDAT", rows), self.END]
        sixteen = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
        assert np.array_equal(read_image(sixteen), read_image(eight))
        assert np.asarray(read_image(sixteen))[0, :, 0].tolist() == [255] * 4 + [120] * 4

    def test_a_tiff_gives_its_page_and_not_its_thumbnail(self):
        pages = [Image.new("RGB", (12, 12), "red"), gradient().copy()]  # Pillow keeps an encoder's settings on an image
        content = encode(pages[0], "TIFF", tiffinfo={254: 1}, save_all=True, append_images=pages[1:])
        assert np.array_equal(read_image(content), gradient())
        assert read_image(encode(pages[0], "TIFF", tiffinfo={254: 1})).size == (12, 12)


FOREIGN = {
    "video": b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
    "JPEG XL": b"\xff\x0a" + bytes(50),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "PDF": b"%PDF-1.4 " * 50,
    "SVG": b'\xef\xbb\xbf<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "HTML": b"\n<!DOCTYPE html><html>not found",
    "Git LFS pointer; run `git lfs pull`": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


PHONES = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(200),
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(200),
    "HEIC of a general brand": b"\0\0\0\x18ftypmif1\0\0\0\0heicmif1" + bytes(200),
    "AVIF of a general brand": b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif" + bytes(200),
}


class TestRefuse:
    def test_no_bytes(self):
        assert reason_of(b"") == "IMAGE_EMPTY"

    @pytest.mark.parametrize("content", [b"hello", b"\x00" * 4096, b"RIFF\0\0\0\0WAVE"])
    def test_what_is_no_image(self, content):
        assert reason_of(content) == "IMAGE_UNRECOGNIZED"

    @pytest.mark.parametrize("name", FOREIGN)
    def test_foreign_files_are_named(self, name):
        with pytest.raises(InputError, match=f"clipsr:IMAGE_UNRECOGNIZED: This is an? .*{name}"):
            read_image(FOREIGN[name])

    @pytest.mark.parametrize("name", PHONES)
    def test_damaged_files_of_phones_are_named(self, name):
        with pytest.raises(InputError, match=f"clipsr:IMAGE_TRUNCATED: The {name.split()[0]} file is damaged"):
            read_image(PHONES[name])

    def test_what_an_installation_lacks_is_named_and_refused(self, tmp_path):
        """Without Pillow's AVIF and without the extra `heif`."""
        for name, content in PHONES.items():
            (tmp_path / name).write_bytes(content)
        script = textwrap.dedent("""
            import pathlib, sys
            sys.modules["pillow_heif"] = sys.modules["PIL.AvifImagePlugin"] = None
            from clipsr_serving.images._file import FORMATS, ImageFileError, find_format
            print(*FORMATS)
            for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
                try:
                    find_format(path.read_bytes())
                except ImageFileError as error:
                    print(error.reason, error.message)
        """)
        done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
        formats, *refusals = done.stdout.splitlines()
        assert formats == "JPEG PNG WEBP GIF BMP TIFF"
        cure = "send a JPEG, PNG, WebP, GIF, BMP or TIFF file."
        assert refusals == [
            f"IMAGE_UNRECOGNIZED This is {what} image; {cure}" for what in ["an AVIF"] * 2 + ["a HEIC"] * 2
        ]

    @pytest.mark.parametrize("content", [b"\xff\xd8\xff", b"BM", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"II*\0"])
    def test_a_supported_file_that_ends_after_its_signature_is_cut_short(self, content):
        assert reason_of(content) == "IMAGE_TRUNCATED"

    def test_a_webp_without_its_last_byte_is_cut_short(self):
        assert reason_of(encode(gradient(), "WEBP")[:-1]) == "IMAGE_TRUNCATED"

    def test_a_jpeg_cut_within_its_profile_is_cut_short(self):
        content = encode(gradient(), "JPEG", icc_profile=bytes(30_000))
        assert reason_of(content[: len(content) // 2]) == "IMAGE_TRUNCATED"

    @pytest.mark.parametrize("file_format", ["ICO", "PPM", "TGA", "JPEG2000", "PCX"])
    def test_formats_that_the_api_does_not_name(self, file_format):
        assert reason_of(encode(gradient(), file_format)) == "IMAGE_UNRECOGNIZED"

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF"])
    def test_files_cut_short(self, file_format):
        content = encode(gradient(200, 200), file_format)
        for rest in (len(content) * 2 // 3, len(content) // 2, 20):
            assert reason_of(content[:rest]) == "IMAGE_TRUNCATED"

    def test_a_cut_jpeg_is_named_truncated(self):
        content = encode(gradient(200, 200), "JPEG")
        assert reason_of(content[: len(content) // 2]) == "IMAGE_TRUNCATED"

    def test_a_large_image_in_a_small_file_is_refused_before_decoding(self):
        content = png_header(20_000, 20_000)
        assert len(content) < 4096
        assert reason_of(content) == "IMAGE_TOO_MANY_PIXELS"

    def test_pixels_just_beyond_the_limit(self):
        # Between our limit and Pillow's own, which only warns here.
        assert reason_of(png_header(12_000, 10_000)) == "IMAGE_TOO_MANY_PIXELS"

    def test_pixels_at_the_limit_pass(self):
        limits = Limits(max_image_pixels=1200)
        assert read_image(encode(gradient(40, 30), "PNG"), limits=limits).size == (40, 30)
        assert reason_of(encode(gradient(41, 30), "PNG"), limits=limits) == "IMAGE_TOO_MANY_PIXELS"

    def test_too_many_bytes(self):
        content = encode(gradient(), "PNG")
        assert reason_of(content, limits=Limits(max_image_bytes=len(content) - 1)) == "IMAGE_TOO_LARGE"

    def test_floating_point_pixels(self):
        assert reason_of(encode(Image.new("F", (4, 4), 0.5), "TIFF")) == "IMAGE_UNRECOGNIZED"

    def test_32_bit_integers_without_a_range(self):
        assert reason_of(encode(Image.new("I", (4, 4), 1 << 20), "TIFF")) == "IMAGE_UNRECOGNIZED"

    @settings(max_examples=150)
    @given(st.data())
    def test_damage_gives_an_image_or_a_reason_and_nothing_else(self, data):
        file_format = data.draw(st.sampled_from(FORMATS))
        content = bytearray(encode_small(file_format))
        for _ in range(data.draw(st.integers(1, 8))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        content = bytes(content[: data.draw(st.integers(1, len(content)))])
        image, error = try_to_read(content, limits=Limits(max_image_pixels=1 << 20))
        if error is None:
            assert image.mode == "RGB"
            assert min(image.size) >= 1
        else:
            assert error.reason.startswith("IMAGE_")

    @settings(max_examples=100)
    @given(st.binary(max_size=200))
    def test_any_bytes_give_a_reason(self, content):
        _, error = try_to_read(content)
        assert error is None or error.message.endswith(".")


sizes_hw = st.tuples(st.integers(1, 300), st.integers(1, 300))


class TestCanvas:
    @settings(max_examples=50)
    @given(sizes_hw, st.sampled_from(FITS))
    def test_the_box_lies_in_the_picture_and_the_picture_in_the_canvas(self, size_hw, fit):
        height, width = size_hw
        placement = place(gradient(width, height), fit=fit, canvas_sizes_px=CANVASES)
        top, left, box_height, box_width = placement.box
        rows, columns = placement.size_hw
        assert max(rows, columns) <= max(CANVASES)
        assert top >= 0
        assert left >= 0
        assert box_height >= 1
        assert box_width >= 1
        assert top + box_height <= rows
        assert left + box_width <= columns
        canvas, box = make_canvas(gradient(width, height), fit=fit, canvas_sizes_px=CANVASES)
        assert canvas.shape == (3, *[pick_canvas_size((rows, columns), CANVASES)] * 2)
        assert canvas.dtype == np.uint8
        assert box.tolist() == pytest.approx(placement.box)

    @settings(max_examples=50)
    @given(st.tuples(st.integers(1, 128), st.integers(1, 128)))
    def test_small_images_are_kept_whole_and_boxed_at_their_centre(self, size_hw):
        height, width = size_hw
        placement = place(gradient(width, height), fit="center_crop", canvas_sizes_px=CANVASES)
        side = min(size_hw)
        assert placement.size_hw == size_hw
        assert placement.box == ((height - side) / 2, (width - side) / 2, side, side)
        whole = place(gradient(width, height), fit="squash", canvas_sizes_px=CANVASES)
        assert whole.box == (0, 0, height, width)

    @settings(max_examples=50)
    @given(st.tuples(st.integers(1, 128), st.integers(1, 128)))
    def test_the_rest_of_the_canvas_repeats_the_edge(self, size_hw):
        pixels = np.asarray(gradient(size_hw[1], size_hw[0]))
        canvas = pad_to_canvas(pixels, 128)
        rows = np.minimum(np.arange(128), size_hw[0] - 1)
        columns = np.minimum(np.arange(128), size_hw[1] - 1)
        assert np.array_equal(canvas.transpose(1, 2, 0), pixels[rows][:, columns])

    def test_a_long_image_is_cut_to_its_square_at_full_resolution(self):
        image = gradient(301, 100)
        placement = place(image, fit="center_crop", canvas_sizes_px=CANVASES)
        assert placement.box == (0, 0.5, 100, 100)
        assert np.array_equal(placement.pixels, np.asarray(image)[:, 100:201])

    def test_a_large_square_is_reduced_as_pillow_reduces_it(self):
        image = gradient(300, 256)
        placement = place(image, fit="center_crop", canvas_sizes_px=CANVASES)
        expected = np.asarray(image.crop((22, 0, 278, 256)).resize((128, 128), Image.Resampling.BICUBIC))
        assert placement.box == (0, 0, 128, 128)
        # Two columns at each side may differ: the filter sees the picture beyond the square, as it should.
        assert np.array_equal(placement.pixels[:, 2:-2], expected[:, 2:-2])

    @pytest.mark.parametrize(("size", "side"), [((60, 20), 60), ((300, 100), 128)])
    def test_padding_makes_a_square_that_holds_the_whole_image(self, size, side):
        image = Image.new("RGB", size, "white")
        placement = place(image, fit="pad", canvas_sizes_px=CANVASES, fill_color=7)
        assert placement.size_hw == (side, side)
        assert placement.box == (0, 0, side, side)
        rows = placement.pixels[:, side // 2, 0]
        border = (side - round(side * size[1] / size[0])) // 2
        assert set(rows[:border]) == set(rows[-border:]) == {7}
        assert set(rows[border + 1 : -border - 1]) == {255}

    def test_squash_reduces_each_axis_by_itself(self):
        placement = place(gradient(300, 100), fit="squash", canvas_sizes_px=CANVASES)
        assert placement.size_hw == (100, 128)
        assert placement.box == (0, 0, 100, 128)

    @pytest.mark.parametrize(("size_hw", "expected"), [((1, 1), 32), ((32, 32), 32), ((33, 2), 64), ((5, 128), 128)])
    def test_the_smallest_canvas_is_picked(self, size_hw, expected):
        assert pick_canvas_size(size_hw, CANVASES) == expected
        assert pick_canvas_size(size_hw, tuple(reversed(CANVASES))) == expected

    def test_no_canvas_is_large_enough(self):
        with pytest.raises(ValueError, match="no canvas"):
            pick_canvas_size((129, 1), CANVASES)


def assert_equals_open_clip(photos: list[Path], resize_mode: str, size_px: int, interpolation: str) -> None:
    """Compare with OpenCLIP's own validation transform, to one level."""
    # Defines the operators that let torchvision, and with it open_clip, import beside a CPU-only torch.
    importlib.import_module("clipsr_training")
    import open_clip

    mean, std, grey = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4]), 40
    transform = open_clip.image_transform(
        size_px,
        is_train=False,
        mean=tuple(mean),
        std=tuple(std),
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill_color=grey,
    )
    for photo in photos:
        ours = make_native_pixels(
            read_image(photo.read_bytes()),
            fit=FIT_OF_RESIZE_MODE[resize_mode],
            image_size_px=size_px,
            interpolation=interpolation,
            fill_color=grey,
        )
        with Image.open(photo) as image:
            theirs = transform(image).numpy().transpose(1, 2, 0) * std + mean
        # The same Pillow calls on the same pixels, one rounding through float and back.
        assert np.abs(ours.transpose(1, 2, 0) - theirs * 255).max() <= 1, photo.name


class TestNative:
    @pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
    @pytest.mark.parametrize(("size_px", "interpolation"), [(64, "bicubic"), (224, "bicubic"), (256, "bilinear")])
    def test_equals_open_clip_on_the_samples(self, repo_root: Path, resize_mode, size_px, interpolation):
        photos = sorted((repo_root / "samples").glob("*.png")) + sorted((repo_root / "samples").glob("*.jpg"))
        assert photos
        assert_equals_open_clip(photos, resize_mode, size_px, interpolation)

    @pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
    @pytest.mark.parametrize("size_px", [64, 224])
    def test_equals_open_clip_on_photos(self, data_dir: Path, resize_mode, size_px):
        photos = sorted((data_dir / "photos").glob("*.jpg"))[:12]
        sizes = {read_image(photo.read_bytes()).size for photo in photos}
        assert any(width > height for width, height in sizes)
        assert any(width < height for width, height in sizes)
        assert_equals_open_clip(photos, resize_mode, size_px, "bicubic")

    def test_padding_shows_the_whole_image_between_borders(self):
        pixels = make_native_pixels(Image.new("RGB", (100, 50), "red"), fit="pad", image_size_px=64, fill_color=9)
        assert np.array_equal(pixels[:, :16], np.full((3, 16, 64), 9))
        assert np.array_equal(pixels[:, 48:], np.full((3, 16, 64), 9))
        assert np.array_equal(pixels[0, 16:48], np.full((32, 64), 255))

    @settings(max_examples=50)
    @given(sizes_hw, st.sampled_from(FITS))
    def test_every_size_gives_a_full_square(self, size_hw, fit):
        pixels = make_native_pixels(gradient(size_hw[1], size_hw[0]), fit=fit, image_size_px=64)
        assert pixels.shape == (3, 64, 64)
        assert pixels.dtype == np.uint8

    def test_a_very_long_image_stays_small_in_memory(self):
        pixels = make_native_pixels(gradient(60_000, 1), fit="center_crop", image_size_px=64)
        assert pixels.shape == (3, 64, 64)

    def test_cutting_the_ends_leaves_the_centre_as_it_is(self):
        # 10:1 is cut to 8:1 first; resized whole, the centre must look the same.
        image = gradient(1000, 100)
        whole = image.resize((640, 64), Image.Resampling.BICUBIC).crop((288, 0, 352, 64))
        ours = make_native_pixels(image, fit="center_crop", image_size_px=64).transpose(1, 2, 0)
        assert np.abs(ours.astype(int) - np.asarray(whole).astype(int)).max() <= 1


def test_no_fit_means_the_checkpoint_s_own():
    assert parse_fit(b"") == "center_crop"
    assert parse_fit(b"", default="pad") == "pad"
    assert parse_fit(b"squash", default="pad") == "squash"


@pytest.mark.parametrize("value", [b"stretch", b"\xff", b"CENTER_CROP"])
def test_unknown_fits_are_refused(value):
    with pytest.raises(InputError, match="clipsr:FIT_UNKNOWN: "):
        parse_fit(value)
