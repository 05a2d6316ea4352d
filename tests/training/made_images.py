"""Small images that tests make for themselves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

_COLOURS = {"blue_sky": (40, 90, 230), "green": (30, 180, 60), "red": (220, 30, 40)}


def png(colour: tuple[int, int, int], size_hw: tuple[int, int] = (32, 32), seed: int = 0) -> bytes:
    """A noisy square of one colour."""
    noise = np.random.default_rng(seed).integers(-25, 26, (*size_hw, 3))
    pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(
    folder: Path, names: Sequence[str] = tuple(_COLOURS), *, per_class: int = 4, size_hw: tuple[int, int] = (32, 32)
) -> Path:
    """A folder of class folders; unless named otherwise `blue_sky`, `green` and `red`, filled with these colours."""
    colours = [*_COLOURS.values()]
    for c, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            content = png(_COLOURS.get(name, colours[c % 3]), size_hw, seed=100 * c + i)
            (folder / name / f"{i}.png").write_bytes(content)
    return folder
