"""Prepares Tiny-ImageNet for the experiment on small pictures: `python -m benchmarks.tiny_imagenet FOLDER OUTPUT`.

Writes `photos/`, training images drawn at random, without their labels; `choice.csv`, other training images with
labels, for choices; and `val.csv`, the validation images with theirs, for the test. Labels are OpenCLIP's names.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from open_clip import IMAGENET_CLASSNAMES
from timm.data.imagenet_info import ImageNetInfo

_SEED = 0


def main() -> None:
    """Read the command line and prepare."""
    parser = argparse.ArgumentParser(description="Prepare Tiny-ImageNet for the experiment on small pictures.")
    parser.add_argument("folder", type=Path, help="tiny-imagenet-200, unpacked")
    parser.add_argument(
        "output", type=Path, help="where to write; images are linked, not copied, where that is possible"
    )
    parser.add_argument("--photos", type=int, default=20_000, help="training images to draw")
    parser.add_argument("--choice", type=int, default=2_000, help="other training images, with labels")
    arguments = parser.parse_args()
    prepare(arguments.folder, arguments.output, n_photos=arguments.photos, n_choice=arguments.choice)


def prepare(folder: Path, output: Path, *, n_photos: int, n_choice: int) -> None:
    """See the module.

    Args:
        folder: tiny-imagenet-200.
        output: made if missing.
        n_photos: images without labels.
        n_choice: images with labels, none of them among the others.
    """
    names = class_names((folder / "wnids.txt").read_text(encoding="utf-8").split())
    train = sorted((folder / "train").glob("*/images/*.JPEG"))
    order = np.random.default_rng(_SEED).permutation(len(train))
    photos, choice = order[:n_photos], order[n_photos : n_photos + n_choice]
    (output / "photos").mkdir(parents=True, exist_ok=True)
    for i in sorted(photos):
        _link(train[i], output / "photos" / train[i].name)
    _write(output / "choice.csv", ((train[i], names[train[i].parent.parent.name]) for i in sorted(choice)))
    lines = (folder / "val/val_annotations.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t")[:2] for line in lines]
    _write(output / "val.csv", ((folder / "val/images" / name, names[wnid]) for name, wnid in rows))


def class_names(wnids: Iterable[str]) -> Mapping[str, str]:
    """Return OpenCLIP's name of each WordNet id."""
    known = dict(zip(ImageNetInfo().label_names(), IMAGENET_CLASSNAMES, strict=True))
    return {wnid: known[wnid] for wnid in wnids}


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:  # another file system
            target.write_bytes(source.read_bytes())


def _write(path: Path, rows: Iterable[tuple[Path, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "label"))
        writer.writerows((os.path.relpath(image, path.parent), label) for image, label in rows)


if __name__ == "__main__":
    main()
