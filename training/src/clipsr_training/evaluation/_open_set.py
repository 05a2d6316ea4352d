"""Data sets by what stands behind `--data`: files, folders, or the hub."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets import Image as ImageColumn
from open_clip import IMAGENET_CLASSNAMES

from clipsr_training.evaluation import _imagenet
from clipsr_training.evaluation._image_set import ImageSet, require_every_class
from clipsr_training.liif._data import IMAGE_SUFFIXES

# Where the hub keeps the CIFAR sets; any other set is named `hub:OWNER/NAME`.
_HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
_HUB_PREFIX = "hub:"
# The names that public sets use; fine before coarse, as CIFAR-100 is scored.
_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
_LABEL_COLUMNS = ("label", "fine_label", "labels", "cls")
_SAVED_DATASET = ("dataset_dict.json", "dataset_info.json")


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """What the name of a data set leaves open.

    Attributes:
        split: of a set that has several.
        image_column: None takes the usual name that the table has.
        label_column: None takes the usual name that the table has.
        devkit: ImageNet's development kit.
    """

    split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    devkit: Path | None = None


def open_set(spec: str, options: SetOptions | None = None) -> ImageSet:
    """Open the labelled images that a text names.

    Args:
        spec: a Parquet file, a CSV or TSV file of paths and labels, a folder of class folders, a flat folder of
            ImageNet-2012 validation images, a folder that `datasets` saved, "cifar10" or "cifar100", or `hub:NAME`.
        options: what the name leaves open.

    Raises:
        FileNotFoundError: there is no such thing.
        ValueError: it is not what it should be; the message says what is wrong.
    """
    options = options or SetOptions()
    path = Path(spec)
    if path.is_dir():
        images = _open_folder(path, options)
    elif path.suffix == ".parquet" and path.is_file():
        table = load_dataset("parquet", data_files=str(path), split="train")
        images = _of_table(table, _parquet_name(path), str(path), options)
    elif path.suffix in (".csv", ".tsv") and path.is_file():
        images = _open_csv(path, options)
    elif spec in _HUB_NAMES or spec.startswith(_HUB_PREFIX):
        images = _open_hub(spec, options)
    else:
        raise FileNotFoundError(
            f"no data at {spec}: expected a Parquet, CSV or TSV file, a folder, "
            f"{', '.join(_HUB_NAMES)} or {_HUB_PREFIX}OWNER/NAME"
        )
    require_every_class(images)
    return images


def _parquet_name(path: Path) -> str:
    return path.parent.name if path.stem in ("train", "test", "validation", "val") and path.parent.name else path.stem


def _open_folder(folder: Path, options: SetOptions) -> ImageSet:
    if any((folder / name).is_file() for name in _SAVED_DATASET):
        saved = load_from_disk(str(folder))
        if isinstance(saved, DatasetDict):
            if options.split not in saved:
                known = ", ".join(map(str, saved))
                raise ValueError(f"{folder} has no split {options.split!r}; choose with --split: {known}")
            saved = saved[options.split]
        return _of_table(saved, folder.name, str(folder), options)
    if any(_imagenet.IMAGE_PATTERN.fullmatch(path.name) for path in folder.iterdir()):
        return _imagenet.open_flat(folder, options.devkit)
    return _open_class_folders(folder, options)


def _open_class_folders(folder: Path, options: SetOptions) -> ImageSet:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder} holds no class folders: expected one folder of images a class, named by its label")
    paths: list[Path] = []
    targets: list[int] = []
    for index, class_folder in enumerate(classes):
        found = sorted(p for p in class_folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ValueError(f"the class folder {class_folder} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        paths += found
        targets += [index] * len(found)
    is_imagenet, classnames = _folder_labels(folder, [path.name for path in classes], options)
    return ImageSet(
        name="imagenet" if is_imagenet else folder.name,
        classnames=classnames,
        targets=np.array(targets, dtype=np.int64),
        names=[path.relative_to(folder).as_posix() for path in paths],
        read=lambda i: paths[i].read_bytes(),
    )


def _folder_labels(folder: Path, names: Sequence[str], options: SetOptions) -> tuple[bool, tuple[str, ...]]:
    """Return whether these are all of ImageNet's classes, and the labels of the folders, which are sorted."""
    if not all(_imagenet.WORDNET_ID.fullmatch(name) for name in names):
        return False, tuple(name.replace("_", " ") for name in names)
    if len(names) == len(IMAGENET_CLASSNAMES):
        return True, tuple(IMAGENET_CLASSNAMES)
    if options.devkit is None:
        raise ValueError(
            f"{folder} has {len(names)} folders named by WordNet ids, such as {names[0]}, not all of ImageNet's "
            "1,000: name the development kit with --devkit, so that they get labels"
        )
    kit = _imagenet.read_devkit(options.devkit)
    words = dict(zip(kit.wnids, kit.words, strict=True))
    unknown = [name for name in names if name not in words]
    if unknown:
        raise ValueError(f"the development kit knows no class {unknown[0]}, a folder in {folder}")
    return False, tuple(words[name].split(",")[0].strip() for name in names)


def _open_csv(path: Path, options: SetOptions) -> ImageSet:
    """Open a table of paths, relative to it, and labels; classes are the labels that occur, sorted."""
    image_column, label_column = options.image_column or "image", options.label_column or "label"
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        columns = reader.fieldnames or []
        missing = [name for name in (image_column, label_column) if name not in columns]
        if missing:
            raise ValueError(
                f"{path} has no column {' or '.join(missing)}; it has {', '.join(columns) or 'none'} "
                "(name others with --image-column, --label-column)"
            )
        rows = [(row[image_column], row[label_column]) for row in reader]
    for line, (image, label) in enumerate(rows, start=2):
        if not image or not label:
            raise ValueError(f"{path}, line {line}: {image_column if not image else label_column} is empty")
    if not rows:
        raise ValueError(f"{path} holds no rows")
    classnames = tuple(sorted({label for _, label in rows}))
    index = {name: i for i, name in enumerate(classnames)}
    paths = [path.parent / image for image, _ in rows]
    return ImageSet(
        name=path.stem,
        classnames=classnames,
        targets=np.array([index[label] for _, label in rows], dtype=np.int64),
        names=[image for image, _ in rows],
        read=lambda i: paths[i].read_bytes(),
    )


def _open_hub(spec: str, options: SetOptions) -> ImageSet:
    name, _, config = _HUB_NAMES.get(spec, spec.removeprefix(_HUB_PREFIX)).partition(":")
    try:
        table = load_dataset(name, config or None, split=options.split)
    # The hub's client raises dozens of types: unreachable, unknown, gated, no such split, ...
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"the data set {name} can't be had from the hub: {reason[0]} (a Parquet file or a folder works offline)"
        ) from error
    return _of_table(table, spec.removeprefix(_HUB_PREFIX).rsplit("/", maxsplit=1)[-1], name, options)


def _of_table(table: Any, name: str, where: str, options: SetOptions) -> ImageSet:
    assert isinstance(table, Dataset)
    columns = table.column_names
    image_column = _column(columns, options.image_column, _IMAGE_COLUMNS, where, "image")
    label_column = _column(columns, options.label_column, _LABEL_COLUMNS, where, "label")
    names = getattr(table.features[label_column], "names", None)
    if names is None:
        raise ValueError(f"{where}: the column {label_column} has no class names (a datasets ClassLabel)")
    targets = np.asarray(table[label_column], dtype=np.int64)
    if len(targets) == 0 or targets.min() < 0:
        raise ValueError(f"{where} holds {'no rows' if len(targets) == 0 else 'rows without a label'}")
    encoded = table.select_columns([image_column]).cast_column(image_column, ImageColumn(decode=False))

    def read(i: int) -> bytes:
        cell = encoded[i][image_column]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    return ImageSet(
        name=name,
        classnames=tuple(label.replace("_", " ") for label in names),
        targets=targets,
        names=[f"row {i}" for i in range(len(targets))],
        read=read,
    )


def _column(columns: Sequence[str], asked: str | None, usual: Sequence[str], where: str, kind: str) -> str:
    candidates = usual if asked is None else (asked,)
    for name in candidates:
        if name in columns:
            return name
    wanted = asked or f"for the {kind} ({', '.join(usual)})"
    raise ValueError(f"{where} has no column {wanted}; it has {', '.join(columns)}: name it with --{kind}-column")
