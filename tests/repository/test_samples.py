"""The sample images are what their attribution and the demo say they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
PICTURES = sorted(SAMPLES.glob("*.[jp][pn]g"))
ROW = re.compile(
    r"^\| `([\w-]+\.(?:png|jpg))` \| \[\d+\]\(http\S+\) \| \[CC BY(?:-SA)? [\d.]+\]\(http\S+\) \| \S.*\|$", re.M
)


def test_every_sample_is_attributed() -> None:
    attributed = ROW.findall((SAMPLES / "ATTRIBUTION.md").read_text(encoding="utf-8"))
    assert sorted(attributed) == [picture.name for picture in PICTURES]
    assert len(attributed) == 24


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.stem)
def test_sample_is_a_thumbnail(picture: Path) -> None:
    with Image.open(picture) as image:
        assert image.mode == "RGB"
        assert 16 <= max(image.size) <= 96


def test_samples_vary() -> None:
    sizes = set()
    for picture in PICTURES:
        with Image.open(picture) as image:
            sizes.add(image.size)
    assert len(sizes) >= 5
    assert any(width != height for width, height in sizes)
