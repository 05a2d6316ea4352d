"""Tables of the `datasets` package: Parquet files, saved data sets, and the hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np

from clipsr_training.data._columns import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SetOptions,
    find_column,
    humanize,
    require_column,
    set_name,
)
from clipsr_training.data._image_set import CaptionedImages, ImageSet

# Where the hub keeps the CIFAR sets; any other set is named `hub:OWNER/NAME`.
HUB_NAMES = {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
HUB_PREFIX = "hub:"
_SAVED = ("dataset_dict.json", "dataset_info.json")


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved this folder."""
    return any((folder / name).is_file() for name in _SAVED)


def is_on_hub(spec: str) -> bool:
    """Whether a text names a data set on the hub."""
    return spec in HUB_NAMES or spec.startswith(HUB_PREFIX)


def open_parquet(path: Path, options: SetOptions, *, or_captions: bool) -> ImageSet | CaptionedImages:
    """Open a Parquet file; see `open_table`."""
    table = datasets.load_dataset("parquet", data_files=str(path), split="train")
    return open_table(table, set_name(path.stem, path), str(path), options, or_captions=or_captions)


def open_saved(folder: Path, options: SetOptions, *, or_captions: bool) -> ImageSet | CaptionedImages:
    """Open a folder that `datasets` saved, of one split or of several; see `open_table`.

    Raises:
        ValueError: it has several splits, but not the asked one.
    """
    saved = datasets.load_from_disk(str(folder))
    if isinstance(saved, datasets.DatasetDict):
        if options.split not in saved:
            known = ", ".join(map(str, saved))
            raise ValueError(f"{folder} has no split {options.split!r}; choose with --split: {known}")
        saved = saved[options.split]
    return open_table(saved, folder.name, str(folder), options, or_captions=or_captions)


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
    try:
        table = datasets.load_dataset(name, config or None, split=options.split)
    # The hub's client raises dozens of types: unreachable, unknown, gated, no such split, ...
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"the data set {name} can't be had from the hub: {reason[0]} (a Parquet file or a folder works offline)"
        ) from error
    return open_table(
        table, spec.removeprefix(HUB_PREFIX).rsplit("/", maxsplit=1)[-1], name, options, or_captions=or_captions
    )


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
    read, names = _reader(table, image_column), [f"row {i}" for i in range(len(table))]
    if or_captions and _has_captions_only(columns, options, where):
        captions = _captions(table, columns, where, options)
        return CaptionedImages(name=name, captions=captions, names=names, read=read)
    label_column = require_column(columns, options.label_column, LABEL_COLUMNS, where, "label")
    classnames, targets = _classes(table, label_column, where)
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


def _reader(table: datasets.Dataset, image_column: str) -> Callable[[int], bytes]:
    encoded = table.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))

    def read(i: int) -> bytes:
        cell = encoded[i][image_column]
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    return read


def _classes(table: datasets.Dataset, label_column: str, where: str) -> tuple[tuple[str, ...], np.ndarray]:
    names = getattr(table.features[label_column], "names", None)
    if names is None:
        raise ValueError(f"{where}: the column {label_column} has no class names (a datasets ClassLabel)")
    # Public test sets hide their labels as -1 or as nothing.
    targets = np.array([-1 if label is None else label for label in table[label_column]], dtype=np.int64)
    unknown = np.flatnonzero((targets < 0) | (targets >= len(names)))
    if len(unknown):
        raise ValueError(f"{where}, row {unknown[0]}: the image has no known class")
    return tuple(map(humanize, names)), targets


def _captions(table: datasets.Dataset, columns: Sequence[str], where: str, options: SetOptions) -> list[list[str]]:
    caption_column = require_column(columns, options.caption_column, CAPTION_COLUMNS, where, "caption")
    captions: list[list[str]] = [
        [cell] if isinstance(cell, str) else list(cell or ()) for cell in table[caption_column]
    ]
    if without := [i for i, own in enumerate(captions) if not own or not all(own)]:
        raise ValueError(f"{where}, row {without[0]}: the image has no caption")
    return captions
