"""Prepares Tiny-ImageNet for training and measurements: `python -m benchmarks.tiny_imagenet FOLDER OUTPUT`.

Writes `photos/`, training images drawn at random, without their labels; `choice.csv`, other training images with
labels, for choices; `train.csv`, all training images with labels; and `val.csv`, the validation images with theirs, for
the test. Labels are OpenCLIP's names, but for `val-zh.csv` and its like, which have the names in other languages that
text towers are taught, and for `cifar_names.csv`, the validation images of classes that fall under a name of CIFAR-10
or -100.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import clipsr_training  # noqa: F401  (torchvision imports beside a torch without its operators)

# isort: split
import numpy as np
from open_clip import IMAGENET_CLASSNAMES
from timm.data.imagenet_info import ImageNetInfo

from clipsr_training import prompts

_SEED = 0
# 51 classes under 29 names, by meaning: a tabby is a cat, a king penguin a bird.
_CIFAR_NAMES = {
    "automobile": ("n03100240", "n03670208", "n04285008", "n02814533"),
    "bear": ("n02132136",),
    "bee": ("n02206856",),
    "bird": ("n01855672", "n02002724", "n02056570", "n02058221"),
    "bottle": ("n02823428", "n03983396", "n03937543"),
    "bridge": ("n04311004", "n04366367"),
    "bus": ("n04146614", "n04487081"),
    "butterfly": ("n02279972", "n02281406"),
    "camel": ("n02437312",),
    "cat": ("n02123045", "n02123394", "n02124075"),
    "chimpanzee": ("n02481823",),
    "cockroach": ("n02233338",),
    "dog": ("n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"),
    "elephant": ("n02504458",),
    "frog": ("n01641577", "n01644900"),
    "keyboard": ("n03085013",),
    "lawn mower": ("n03649909",),
    "lion": ("n02129165",),
    "lobster": ("n01983481", "n01984695"),
    "mushroom": ("n07734744",),
    "orange": ("n07747607",),
    "plate": ("n07579787",),
    "snail": ("n01944390",),
    "snake": ("n01742172",),
    "spider": ("n01774384", "n01774750"),
    "sweet pepper": ("n07720875",),
    "table": ("n03201208",),
    "tractor": ("n04465501",),
    "train": ("n02917067", "n03393912"),
}


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
    _write(output / "train.csv", ((path, names[path.parent.parent.name]) for path in train))
    lines = (folder / "val/val_annotations.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t")[:2] for line in lines]
    _write(output / "val.csv", ((folder / "val/images" / name, names[wnid]) for name, wnid in rows))
    things = {thing.id: thing for thing in prompts.read_things()}
    for code in prompts.LANGUAGES[1:]:
        labelled = ((folder / "val/images" / name, things[wnid].names[code]) for name, wnid in rows)
        _write(output / f"val-{code}.csv", labelled)
    known = {wnid: name for name, wnids in _CIFAR_NAMES.items() for wnid in wnids}
    own = [(name, wnid) for name, wnid in rows if wnid in known]
    _write(output / "cifar_names.csv", ((folder / "val/images" / name, known[wnid]) for name, wnid in own))


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
