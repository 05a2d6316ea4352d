"""Inputs that the training room's tests share."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three smooth images of 120x150 px."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        smooth = rng.integers(0, 256, (12, 15, 3), dtype=np.uint8)
        Image.fromarray(smooth).resize((150, 120), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder
