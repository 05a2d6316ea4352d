"""The images that are sent: CIFAR's, as PNG files, or pictures made up at their size."""

from __future__ import annotations

import io
import random
from pathlib import Path

from PIL import Image

from clipsr._formats import IMAGE_ENDINGS

__all__ = ["MADE_UP", "as_png", "make_image", "read_images"]

MADE_UP = "made-up"
_SIDE_PX = 32
_PNG = b"\x89PNG"


def read_images(source: str, n_images: int) -> list[bytes]:
    """Return encoded images: a folder's files as they are, everything else as PNG, which all systems are told to get.

    A Parquet file may hold others: CIFAR comes as lossless WebP, too.

    Args:
        source: a Parquet file with a column `image` as the `datasets` package has it, a folder of files, or `made-up`
            for smooth random PNG images of 32 x 32 pixels, the same every time (`made-up:64` for 64 x 64).
        n_images: at most so many.

    Raises:
        ValueError: there are no images.
    """
    if source == MADE_UP or source.startswith(f"{MADE_UP}:"):
        side_px = int(source.partition(":")[2] or _SIDE_PX)
        return [make_image(side_px, seed=i) for i in range(n_images)]
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)[:n_images]
        images = [file.read_bytes() for file in files]
    else:
        import pyarrow.parquet  # only here: the generator's processes start faster without

        rows = next(pyarrow.parquet.ParquetFile(path).iter_batches(n_images, columns=["image"]))
        images = [as_png(row["bytes"]) for row in rows.column(0).to_pylist()]
    if not images:
        raise ValueError(f"{source} holds no images")
    return images


def as_png(content: bytes) -> bytes:
    """Return an image file as PNG: unchanged if it is one."""
    if content.startswith(_PNG):
        return content
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def make_image(side_px: int, *, seed: int = 0, file_format: str = "PNG", height_px: int | None = None) -> bytes:
    """Return a smooth random picture as a file, the same for the same seed.

    Args:
        side_px: width, and height unless `height_px` is given.
        seed: of the colours.
        file_format: Pillow's name of the format.
        height_px: height.
    """
    small = Image.frombytes("RGB", (8, 8), random.Random(seed).randbytes(8 * 8 * 3))
    buffer = io.BytesIO()
    small.resize((side_px, height_px or side_px), Image.Resampling.BICUBIC).save(buffer, file_format)
    return buffer.getvalue()
