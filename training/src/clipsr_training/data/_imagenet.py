"""ImageNet-2012 validation: the flat folder of images with the development kit's ground truth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from open_clip import IMAGENET_CLASSNAMES
from scipy import io

from clipsr_training.data._image_set import ImageSet

IMAGE_PATTERN = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)
WORDNET_ID = re.compile(r"n\d{8}")
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_META = "meta.mat"


@dataclass(frozen=True, kw_only=True)
class Devkit:
    """What the development kit says.

    Attributes:
        wnids: WordNet id of each class in the kit's numbering, ILSVRC2012_ID - 1.
        words: the synset's words of each class, in the same order.
        labels: ILSVRC2012_ID of every validation image, 1-based, in the order of the images' numbers.
    """

    wnids: tuple[str, ...]
    words: tuple[str, ...]
    labels: np.ndarray


def read_devkit(folder: Path) -> Devkit:
    """Read `meta.mat` and the ground truth from a folder, its `data/`, or an unpacked `ILSVRC2012_devkit_t12/data/`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the kit is of another year, or its files don't fit together.
    """
    meta, truth = _find(folder, _META), _find(folder, _GROUND_TRUTH)
    wnids, words = read_meta(meta)
    try:
        labels = np.array([int(line) for line in truth.read_text(encoding="utf-8").split()], dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{truth} must hold one number a line ({error})") from error
    if len(labels) == 0 or labels.min() < 1 or labels.max() > len(wnids):
        raise ValueError(f"{truth} must hold classes from 1 to {len(wnids)}, as {meta} numbers them")
    return Devkit(wnids=wnids, words=words, labels=labels)


def read_meta(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return WordNet ids and words of the leaf classes in `meta.mat`, in the order of ILSVRC2012_ID.

    Raises:
        ValueError: the file is not the 2012 kit's.
    """
    try:
        synsets = io.loadmat(str(path), squeeze_me=True)["synsets"]
    # scipy raises ValueError, TypeError, NotImplementedError and others on files that are no MATLAB 5 files.
    except Exception as error:
        raise ValueError(f"{path} can't be read as the development kit's meta.mat: {error}") from error
    synsets = np.atleast_1d(synsets)
    fields: Sequence[str] = synsets.dtype.names or ()
    if "ILSVRC2012_ID" not in fields:
        years = [name.removesuffix("_ID") for name in fields if re.fullmatch(r"ILSVRC\d{4}_ID", name)]
        found = f"is of {years[0]}" if years else f"has the fields {', '.join(fields) or 'none'}"
        raise ValueError(f"{path} {found}; the validation images are those of ILSVRC2012: take ILSVRC2012_devkit_t12")
    missing = {"WNID", "words", "num_children"} - set(fields)
    if missing:
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}; take the whole ILSVRC2012_devkit_t12")
    leaves = sorted((int(s["ILSVRC2012_ID"]), str(s["WNID"]), str(s["words"])) for s in _leaves(synsets))
    if [number for number, _, _ in leaves] != list(range(1, len(leaves) + 1)):
        raise ValueError(f"{path}: the ILSVRC2012_ID of its classes don't count from 1")
    return tuple(wnid for _, wnid, _ in leaves), tuple(words for _, _, words in leaves)


def _leaves(synsets: Any) -> list[Any]:
    """Return the classes; the rest of the file are their hypernyms."""
    return [synset for synset in synsets if int(synset["num_children"]) == 0]


def class_labels(wnids: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Return the label of each class, classes being sorted by WordNet id.

    Args:
        wnids: sorted.
        words: the synsets' words, used where these are not the 1,000 classes: the first synonym.
    """
    if len(wnids) == len(IMAGENET_CLASSNAMES):
        # OpenAI's curated names, as OpenCLIP publishes them; their order is that of sorted WordNet ids.
        return tuple(IMAGENET_CLASSNAMES)
    return tuple(word.split(",")[0].strip() for word in words)


def open_flat(folder: Path, devkit: Path | None) -> ImageSet:
    """Open a flat folder of `ILSVRC2012_val_*.JPEG`.

    Args:
        folder: the images; a part of them will do.
        devkit: where the development kit is; None looks in the folder itself and beside it.

    Raises:
        FileNotFoundError: a file of the kit is missing.
        ValueError: see `read_devkit`; or there are images without a label.
    """
    kit = read_devkit(_devkit_folder(folder) if devkit is None else devkit)
    paths = sorted(path for path in folder.iterdir() if IMAGE_PATTERN.fullmatch(path.name))
    numbers = np.array([_number(path) for path in paths])
    if numbers.max() > len(kit.labels):
        unlabelled = int((numbers > len(kit.labels)).sum())
        raise ValueError(
            f"{_GROUND_TRUTH} has {len(kit.labels):,} lines, too few for {unlabelled:,} of the {len(paths):,} images "
            f"in {folder} (the last is {paths[-1].name}); take the ground truth of the same release"
        )
    order = sorted(range(len(kit.wnids)), key=lambda i: kit.wnids[i])
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    return ImageSet(
        name="imagenet",
        classnames=class_labels([kit.wnids[i] for i in order], [kit.words[i] for i in order]),
        targets=position[kit.labels[numbers - 1] - 1],
        names=[path.name for path in paths],
        read=lambda i: paths[i].read_bytes(),
    )


def _number(path: Path) -> int:
    match = IMAGE_PATTERN.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _devkit_folder(images: Path) -> Path:
    for folder in (images, images.parent, images.parent / "ILSVRC2012_devkit_t12"):
        if (folder / _META).is_file() or (folder / "data" / _META).is_file():
            return folder
    raise FileNotFoundError(
        f"{images} holds ILSVRC2012 validation images without classes: name the unpacked ILSVRC2012_devkit_t12 "
        f"({_META}, {_GROUND_TRUTH}) with --devkit"
    )


def _find(folder: Path, name: str) -> Path:
    candidates = [folder / name, folder / "data" / name, folder / "ILSVRC2012_devkit_t12" / "data" / name]
    for path in candidates:
        if path.is_file():
            return path
    others = sorted(path.name for path in folder.rglob("ILSVRC*_validation_ground_truth.txt"))
    hint = f"; it holds {others[0]}: another year's kit" if name == _GROUND_TRUTH and others else ""
    raise FileNotFoundError(f"no {name} in {folder} or its data/{hint}")
