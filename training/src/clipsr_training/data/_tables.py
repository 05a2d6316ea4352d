"""Tables of the `datasets` package: Parquet files, saved data sets, and the hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
from datasets.exceptions import DatasetGenerationError, ExpectedMoreSplitsError, NonMatchingSplitsSizesError

from clipsr_training.data._columns import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SetOptions,
    find_column,
    merge_classes,
    name_numbers,
    number_classes,
    require_captions,
    require_column,
    require_text,
    set_name,
)
from clipsr_training.data._image_set import CaptionedImages, ImageSet, warn_of_left_out
from clipsr_training.data._images import find_images

# Where the hub keeps the CIFAR sets; any other set is named `hub:OWNER/NAME`.
HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
HUB_PREFIX = "hub:"
# What the `datasets` package looks for beside images, and where it does.
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_PLACES = ("", "*/", "*/*/")
_SAVED = ("dataset_dict.json", "dataset_info.json")


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return any((folder / name).is_file() for name in _SAVED)


def is_repository(folder: Path) -> bool:
    """Whether a folder is laid out as a data set on the hub: tables, or images beside a table of what they are."""
    return any(next(folder.glob(place + name), None) for place in _PLACES for name in ("*.parquet", *_METADATA))


def is_on_hub(spec: str) -> bool:
    """Whether a text names a data set on the hub."""
    return spec in HUB_NAMES or spec.startswith(HUB_PREFIX)


def open_parquet(path: Path, options: SetOptions, *, or_captions: bool) -> ImageSet | CaptionedImages:
    """Open a Parquet file; see `open_table`."""
    with _explained(f"{path} can't be read as Parquet"):
        table = datasets.load_dataset("parquet", data_files=str(path), split="train")
    return open_table(table, set_name(path.stem, path), str(path), options, or_captions=or_captions)


def open_saved(folder: Path, options: SetOptions, *, or_captions: bool) -> ImageSet | CaptionedImages:
    """Open a folder that `datasets` saved, of one split or of several; see `open_table`.

    Raises:
        ValueError: it has several splits, but not the asked one.
    """
    with _explained(f"{folder} can't be read as a folder that datasets saved"):
        saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if options.split not in saved:
            known = ", ".join(map(str, saved))
            raise ValueError(f"{folder} has no split {options.split!r}; choose with --split: {known}")
        saved = saved[options.split]
    return open_table(saved, folder.name, str(folder), options, or_captions=or_captions)


def open_repository(
    folder: Path, options: SetOptions, *, or_captions: bool, config: str = ""
) -> ImageSet | CaptionedImages:
    """Open a folder that is laid out as a data set on the hub, `config` of several in it; see `open_table`."""
    with _explained(f"{folder} can't be read as a repository of the hub"):
        table = datasets.load_dataset(str(folder), config or None, split=options.split)
    assert isinstance(table, datasets.Dataset)
    warn_of_left_out(folder, _find_unnamed(folder, table), f"that no {' or '.join(_METADATA)} names")
    return open_table(table, folder.name, str(folder), options, or_captions=or_captions)


def _find_unnamed(folder: Path, table: datasets.Dataset) -> list[Path]:
    """Return the images beside and below the table's metadata files that are in none of its rows."""
    metadata = [path for place in _PLACES for name in _METADATA for path in folder.glob(place + name)]
    if not metadata:
        return []
    named = {Path(path) for column in table.features for path in _read_paths(table, column)}
    unnamed: set[Path] = set()
    for path in metadata:
        found = {image.resolve(): image for image in find_images(path.parent)}
        if not named.isdisjoint(found):  # otherwise it is of another split
            unnamed |= {image for target, image in found.items() if target not in named}
    return sorted(unnamed)


def _read_paths(table: datasets.Dataset, column: str) -> list[str]:
    """Return where the files of a column of images lie, those that are not in the table itself."""
    if not isinstance(table.features[column], datasets.Image):
        return []
    stored = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return [os.path.realpath(cell["path"]) for cell in stored[column] if cell is not None and cell["bytes"] is None]


def open_hub(spec: str, options: SetOptions, *, or_captions: bool) -> ImageSet | CaptionedImages:
    """Download a data set, or take it from the cache of `datasets`; see `open_table`.

    Args:
        spec: a key of `HUB_NAMES`, `hub:OWNER/NAME` or `hub:OWNER/NAME:CONFIG`.
        options: what the name leaves open.
        or_captions: see `open_table`.

    Raises:
        ValueError: it can't be had; the message gives the hub's reason.
    """
    name, _, config = HUB_NAMES.get(spec, spec.removeprefix(HUB_PREFIX)).partition(":")
    with _explained(f"the data set {name} (a Parquet file or a folder works offline) can't be had from the hub"):
        table = datasets.load_dataset(name, config or None, split=options.split)
    return open_table(
        table, spec.removeprefix(HUB_PREFIX).rsplit("/", maxsplit=1)[-1], name, options, or_captions=or_captions
    )


@contextmanager
def _explained(what_failed: str) -> Iterator[None]:
    """Turn the dozens of exceptions of `datasets` and its libraries into one sentence."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what_failed}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    while isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, NonMatchingSplitsSizesError | ExpectedMoreSplitsError):
        return "it holds other rows than its README.md counts; copy it in full, or correct the counts there"
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    if first.startswith("Unknown split"):
        return f"{first} Choose with --split."
    if first.startswith("Config name is missing") and more:
        return f"{first} {more[0]} Name it behind a colon."
    return first


def open_table(
    table: object, name: str, where: str, options: SetOptions, *, or_captions: bool
) -> ImageSet | CaptionedImages:
    """Read which images a table holds and what it says of them.

    Args:
        table: one split.
        name: for reports.
        where: for messages.
        options: which columns.
        or_captions: read captions where there are no labels, or a caption column is asked for.

    Raises:
        ValueError: a column is missing, or a row has no label or caption.
    """
    assert isinstance(table, datasets.Dataset)
    columns = table.column_names
    image_column = require_column(columns, options.image_column, IMAGE_COLUMNS, where, "image")
    if len(table) == 0:
        raise ValueError(f"{where} holds no rows")
    read, names = _reader(table, image_column, where), [f"row {i}" for i in range(len(table))]
    if or_captions and _has_captions_only(columns, options, where):
        captions = _captions(table, columns, where, options)
        return CaptionedImages(name=name, captions=captions, names=names, read=read)
    label_column = require_column(columns, options.label_column, LABEL_COLUMNS, where, "label")
    classnames, targets = _classes(table, label_column, where, options)
    return ImageSet(name=name, classnames=classnames, targets=targets, names=names, read=read)


def _has_captions_only(columns: Sequence[str], options: SetOptions, where: str) -> bool:
    if options.caption_column is not None:
        return True
    if options.label_column is not None or find_column(columns, None, LABEL_COLUMNS):
        return False
    if find_column(columns, None, CAPTION_COLUMNS) is None:
        raise ValueError(
            f"{where} has no column for the label ({', '.join(LABEL_COLUMNS)}) or the caption "
            f"({', '.join(CAPTION_COLUMNS)}); it has {', '.join(columns)}: name it with --label-column or "
            "--caption-column"
        )
    return True


def _reader(table: datasets.Dataset, image_column: str, where: str) -> Callable[[int], bytes]:
    with _explained(f"{where}: the column {image_column} holds no images"):
        encoded = table.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    fields = encoded.with_format("arrow")[:][image_column].flatten()
    is_null = np.logical_and(*(field.is_null().to_numpy() for field in fields))
    if n_null := int(is_null.sum()):
        raise ValueError(f"{where}, row {is_null.argmax()}: there is no image (null), as in {n_null:,} rows in all")

    def read(i: int) -> bytes:
        cell = encoded[i][image_column]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    return read


def _classes(
    table: datasets.Dataset, label_column: str, where: str, options: SetOptions
) -> tuple[tuple[str, ...], np.ndarray]:
    feature = table.features[label_column]
    kind, names = str(getattr(feature, "dtype", type(feature).__name__)), getattr(feature, "names", None)
    cells = table[label_column]
    if kind in {"string", "large_string"}:
        return number_classes([require_text(cell, f"{where}, row {i}", "label") for i, cell in enumerate(cells)])
    if "int" not in kind:
        raise ValueError(f"{where}: the column {label_column} holds neither text nor integers but {kind}")
    # Public test sets hide their labels as -1 or as nothing.
    targets = np.array([-1 if label is None else label for label in cells], dtype=np.int64)
    named = options if names is None else replace(options, labels=tuple(names))
    classnames, targets = name_numbers(targets, named, lambda i: f"{where}, row {i}", f"{where}, column {label_column}")
    return (classnames, targets) if names is None else merge_classes(classnames, targets)


def _captions(table: datasets.Dataset, columns: Sequence[str], where: str, options: SetOptions) -> list[list[str]]:
    caption_column = require_column(columns, options.caption_column, CAPTION_COLUMNS, where, "caption")
    return [require_captions(cell, f"{where}, row {i}") for i, cell in enumerate(table[caption_column])]
