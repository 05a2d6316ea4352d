"""Inputs that the training room's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image

from tests.forks import Forks, forking


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Runs scripts with the commands of this room imported."""
    folder = tmp_path_factory.mktemp("forks")
    with forking(folder, "clipsr_training._cli.train", "clipsr_training._cli.evaluate") as started:
        yield started


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


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """48 images of noise, 32x32 px, 16 in each of the classes cat, lawn_mower and ship."""
    rng = np.random.default_rng(0)
    rows = {
        "image": [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(48)],
        "label": [i % 3 for i in range(48)],
    }
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["cat", "lawn_mower", "ship"])})
    path = tmp_path / "toy" / "train.parquet"
    path.parent.mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return path
