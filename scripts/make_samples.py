#!/usr/bin/env python3
"""Make the demo images of `samples/` from Creative Commons photos.

    python scripts/make_samples.py PHOTOS [--out samples]

PHOTOS is a folder of captioned photos: JPEG files beside a `captions.json` that gives each photo's licence and source.
Every sample is a crop around one object, reduced to the size of a thumbnail, and saved without loss;
`ATTRIBUTION.md` is written beside them from the same table.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One sample: which part of which photo, at which size.

    Attributes:
        name: stem of the sample's file name; starts with what the picture shows.
        photo: file name of the photo.
        box: (left, top, right, bottom) of the crop, in pixels of the photo.
        longer_side_px: the longer side of the sample; the shorter one follows the crop's aspect ratio.
    """

    name: str
    photo: str
    box: tuple[int, int, int, int]
    longer_side_px: int

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the sample."""
        left, top, right, bottom = self.box
        width, height = right - left, bottom - top
        factor = self.longer_side_px / max(width, height)
        return max(1, round(width * factor)), max(1, round(height * factor))


# Chosen by eye among what the bundled model knows: one kind of object that fills much of the crop. Sizes vary on
# purpose, and some crops are not square.
CROPS = (
    Crop(name="airplane", photo="000000205401.jpg", box=(20, 30, 230, 190), longer_side_px=48),
    Crop(name="airplane-pair", photo="000000161044.jpg", box=(145, 60, 225, 115), longer_side_px=36),
    Crop(name="automobile", photo="000000234748.jpg", box=(0, 40, 150, 190), longer_side_px=48),
    Crop(name="automobile-silver", photo="000000423617.jpg", box=(200, 160, 290, 240), longer_side_px=40),
    Crop(name="automobile-yellow", photo="000000423617.jpg", box=(55, 130, 140, 200), longer_side_px=32),
    Crop(name="bus", photo="000000568290.jpg", box=(90, 55, 200, 155), longer_side_px=48),
    Crop(name="cat", photo="000000358083.jpg", box=(50, 15, 160, 140), longer_side_px=40),
    Crop(name="cat-eating", photo="000000196393.jpg", box=(0, 40, 150, 190), longer_side_px=32),
    Crop(name="clock", photo="000000551780.jpg", box=(105, 15, 225, 200), longer_side_px=64),
    Crop(name="horse", photo="000000214753.jpg", box=(155, 75, 250, 170), longer_side_px=36),
    Crop(name="horse-pair", photo="000000214753.jpg", box=(80, 60, 250, 180), longer_side_px=56),
    Crop(name="horse-white", photo="000000078499.jpg", box=(170, 135, 280, 200), longer_side_px=48),
)


def make_sample(photo: Image.Image, crop: Crop) -> Image.Image:
    """Cut the crop out and reduce it, antialiased by Lanczos' filter."""
    return photo.convert("RGB").crop(crop.box).resize(crop.size_px, Image.Resampling.LANCZOS)


def licence_name(url: str) -> str:
    """Turn a Creative Commons deed's address into its usual short name, such as `CC BY-SA 2.0`."""
    kind, version = url.rstrip("/").split("/")[-2:]
    return f"CC {kind.upper()} {version}"


def attribution(records: dict[str, dict[str, str]]) -> str:
    """Write the attribution page.

    Args:
        records: by the photo's file name, its `license` and `source`.

    Returns:
        The page, in Markdown.
    """
    rows = [
        "| sample | photo (source) | licence | change made |",
        "|---|---|---|---|",
    ]
    for crop in CROPS:
        record = records[crop.photo]
        width, height = crop.size_px
        rows.append(
            f"| `{crop.name}.png` | [{crop.photo.removesuffix('.jpg').lstrip('0')}]({record['source']}) "
            f"| [{licence_name(record['license'])}]({record['license']}) "
            f"| cropped to {crop.box}, reduced to {width}x{height} px |"
        )
    head = (
        "# Where the sample images come from",
        "",
        "Photos of the COCO data set (the number is the photo's COCO id), published by their photographers under the",
        "licences named below; each image here is an adaptation of one of them and stays under that photo's licence.",
        "The box is (left, top, right, bottom) in a copy of the photo whose longer side is 320 px.",
        "Made by `scripts/make_samples.py`.",
        "",
    )
    return "\n".join((*head, *rows, ""))


def main() -> None:
    """Write the samples and their attribution."""
    parser = argparse.ArgumentParser(description="Make the demo images from Creative Commons photos.")
    parser.add_argument("photos", type=Path, help="folder with the photos and captions.json")
    parser.add_argument("--out", type=Path, default=Path("samples"), help="where the samples go (default: samples)")
    arguments = parser.parse_args()
    records = {
        record["file"]: record
        for record in json.loads((arguments.photos / "captions.json").read_text(encoding="utf-8"))
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for crop in CROPS:
        with Image.open(arguments.photos / crop.photo) as photo:
            make_sample(photo, crop).save(arguments.out / f"{crop.name}.png", optimize=True)
    (arguments.out / "ATTRIBUTION.md").write_text(attribution(records), encoding="utf-8")
    print(f"{len(CROPS)} samples in {arguments.out}")


if __name__ == "__main__":
    main()
