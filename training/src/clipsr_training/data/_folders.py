"""A folder of images for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from open_clip import IMAGENET_CLASSNAMES

from clipsr_training.data._columns import SPLIT_NAMES, SetOptions, merge_classes, set_name
from clipsr_training.data._image_set import ImageSet, warn_of_left_out
from clipsr_training.data._imagenet import WORDNET_ID, read_devkit
from clipsr_training.data._images import IMAGE_ENDINGS, find_images, is_hidden


def open_class_folders(folder: Path, options: SetOptions) -> ImageSet:
    """Open a folder of folders, each named by its label, underscores for spaces, or by a WordNet id of ImageNet.

    Where these folders are splits, as `train` and `val`, it opens the asked one.

    Raises:
        FileNotFoundError: a file of ImageNet's development kit is missing.
        ValueError: there are no class folders, one is empty, or WordNet ids have no label.
    """
    classes = _folders_in(folder)
    if classes and all(path.name.lower() in SPLIT_NAMES for path in classes) and any(map(_folders_in, classes)):
        splits = {path.name: path for path in classes}
        if options.split not in splits:
            known = ", ".join(splits)
            raise ValueError(f"{folder} has no split {options.split!r}; choose with --split: {known}")
        return open_class_folders(splits[options.split], options)
    if not classes:
        raise ValueError(f"{folder} holds no class folders: expected one folder of images a class, named by its label")
    paths: list[Path] = []
    targets: list[int] = []
    for index, class_folder in enumerate(classes):
        found = find_images(class_folder)
        if not found:
            raise ValueError(
                f"the class folder {class_folder} holds no images ({', '.join(sorted(IMAGE_ENDINGS))}); every folder "
                f"in {folder} is a class"
            )
        paths += found
        targets += [index] * len(found)
    warn_of_left_out(folder, find_images(folder, recursive=False), "in no class folder")
    is_imagenet, classnames = _labels(folder, [path.name for path in classes], options.devkit)
    numbers = np.array(targets, dtype=np.int64)
    if classnames is None:
        classnames, numbers = merge_classes([path.name for path in classes], numbers)
    return ImageSet(
        name="imagenet" if is_imagenet else set_name(folder.name, folder),
        classnames=classnames,
        targets=numbers,
        names=[path.relative_to(folder).as_posix() for path in paths],
        read=lambda i: paths[i].read_bytes(),
    )


def _folders_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def _labels(folder: Path, names: Sequence[str], devkit: Path | None) -> tuple[bool, tuple[str, ...] | None]:
    """Return whether these are all of ImageNet's classes, and its labels of the folders, which are sorted, if any."""
    if not all(WORDNET_ID.fullmatch(name) for name in names):
        return False, None
    if len(names) == len(IMAGENET_CLASSNAMES):
        return True, tuple(IMAGENET_CLASSNAMES)
    if devkit is None:
        raise ValueError(
            f"{folder} has {len(names)} folders named by WordNet ids, such as {names[0]}, not all of ImageNet's "
            "1,000: name the development kit with --devkit, so that they get labels"
        )
    kit = read_devkit(devkit)
    words = dict(zip(kit.wnids, kit.words, strict=True))
    unknown = [name for name in names if name not in words]
    if unknown:
        raise ValueError(f"the development kit knows no class {unknown[0]}, a folder in {folder}")
    return False, tuple(words[name].split(",")[0].strip() for name in names)
