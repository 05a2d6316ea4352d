#!/usr/bin/env python3
"""Make the demo images of `samples/` from Creative Commons photos.

    python scripts/make_samples.py PHOTOS [--out samples]

PHOTOS is a folder of captioned photos: JPEG files beside a `captions.json` that gives each photo's licence and source.
Every sample is a crop around one object, reduced to the size of a thumbnail, with or without antialiasing, and saved as
PNG or JPEG; `ATTRIBUTION.md` is written beside them from the same table.
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
        is_antialiased: whether it is reduced by Lanczos' filter, or by bilinear interpolation without antialiasing, as
            many programs do.
        jpeg_quality: saved as JPEG of this quality; None for PNG.
    """

    name: str
    photo: str
    box: tuple[int, int, int, int]
    longer_side_px: int
    is_antialiased: bool = True
    jpeg_quality: int | None = None

    @property
    def file_name(self) -> str:
        """The sample's file name."""
        return f"{self.name}.png" if self.jpeg_quality is None else f"{self.name}.jpg"

    @property
    def change(self) -> str:
        """What was done to the photo, in words."""
        width, height = self.size_px
        reduction = "" if self.is_antialiased else " without antialiasing"
        saved = "" if self.jpeg_quality is None else f", saved as JPEG {self.jpeg_quality}"
        return f"cropped to {self.box}, reduced to {width}x{height} px{reduction}{saved}"

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the sample."""
        left, top, right, bottom = self.box
        width, height = right - left, bottom - top
        factor = self.longer_side_px / max(width, height)
        return max(1, round(width * factor)), max(1, round(height * factor))


# Chosen by eye: one kind of object that fills much of the crop. The first twelve are among what CIFAR shows; the others
# mostly are not, or were saved in ways that lose more. Sizes vary on purpose, and some crops are not square.
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
    Crop(
        name="bear",
        photo="000000020247.jpg",
        box=(150, 85, 262, 225),
        longer_side_px=32,
        is_antialiased=False,
        jpeg_quality=90,
    ),
    Crop(name="broccoli", photo="000000062554.jpg", box=(25, 25, 165, 165), longer_side_px=32),
    Crop(name="dog", photo="000000377575.jpg", box=(30, 60, 170, 300), longer_side_px=64, jpeg_quality=75),
    Crop(name="lamp", photo="000000427034.jpg", box=(160, 0, 280, 110), longer_side_px=24, jpeg_quality=75),
    Crop(name="laptop", photo="000000215778.jpg", box=(60, 10, 300, 185), longer_side_px=96),
    Crop(name="motorcycle", photo="000000165518.jpg", box=(95, 95, 220, 270), longer_side_px=48, jpeg_quality=60),
    Crop(name="noodles", photo="000000099053.jpg", box=(20, 20, 310, 270), longer_side_px=40),
    Crop(name="pizza", photo="000000160012.jpg", box=(10, 65, 300, 220), longer_side_px=64, is_antialiased=False),
    Crop(name="rose", photo="000000249025.jpg", box=(35, 5, 195, 165), longer_side_px=16),
    Crop(name="seagull", photo="000000126107.jpg", box=(110, 10, 320, 140), longer_side_px=36),
    Crop(
        name="stop-sign",
        photo="000000252332.jpg",
        box=(20, 10, 290, 230),
        longer_side_px=40,
        is_antialiased=False,
        jpeg_quality=90,
    ),
    Crop(
        name="suitcase",
        photo="000000475678.jpg",
        box=(90, 40, 250, 220),
        longer_side_px=56,
        is_antialiased=False,
        jpeg_quality=75,
    ),
)


def make_sample(photo: Image.Image, crop: Crop) -> Image.Image:
    """Cut the crop out and reduce it."""
    cut, size = photo.convert("RGB").crop(crop.box), crop.size_px
    if crop.is_antialiased:
        return cut.resize(size, Image.Resampling.LANCZOS)
    # Pillow antialiases whatever it resizes; an affine map looks at the nearest pixels only.
    factors = cut.width / size[0], cut.height / size[1]
    matrix = (factors[0], 0, 0, 0, factors[1], 0)
    return cut.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def save_sample(sample: Image.Image, crop: Crop, folder: Path) -> None:
    """Write the sample's file."""
    path = folder / crop.file_name
    if crop.jpeg_quality is None:
        sample.save(path, optimize=True)
    else:
        sample.save(path, quality=crop.jpeg_quality)


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
        rows.append(
            f"| `{crop.file_name}` | [{crop.photo.removesuffix('.jpg').lstrip('0')}]({record['source']}) "
            f"| [{licence_name(record['license'])}]({record['license']}) "
            f"| {crop.change} |"
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
            save_sample(make_sample(photo, crop), crop, arguments.out)
    (arguments.out / "ATTRIBUTION.md").write_text(attribution(records), encoding="utf-8")
    print(f"{len(CROPS)} samples in {arguments.out}")


if __name__ == "__main__":
    main()
