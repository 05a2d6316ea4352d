"""Which column of a table, or field of a sample, means what, and what its cells may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# The names that public sets use, the first that is there counts; fine labels before coarse, as CIFAR-100 is scored.
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
PATH_COLUMNS = ("image", "img", "filepath", "path", "file_name")
LABEL_COLUMNS = ("label", "fine_label", "labels", "cls")
CAPTION_COLUMNS = ("caption", "text", "title")
# File names that say which part of a data set a file is, not which data set.
SPLIT_NAMES = frozenset({"train", "training", "test", "testing", "validation", "valid", "val"})


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """What the name of a data set leaves open.

    Attributes:
        split: of a set that has several.
        image_column: None takes the usual name that the table has.
        label_column: likewise.
        caption_column: likewise; where it is given, captions are read even if there are labels.
        devkit: ImageNet's development kit.
        labels: names for the classes, in their order; numbers have none of their own.
    """

    split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    devkit: Path | None = None
    labels: tuple[str, ...] | None = None


def find_column(columns: Sequence[str], asked: str | None, usual: Sequence[str]) -> str | None:
    """Return the asked column, or the first usual one, if the table has it."""
    return next((name for name in (usual if asked is None else (asked,)) if name in columns), None)


def require_column(
    columns: Sequence[str], asked: str | None, usual: Sequence[str], where: Path | str, kind: str
) -> str:
    """Return the asked column, or the first usual one.

    Args:
        columns: what the table has.
        asked: by the user; None for a usual name.
        usual: names that mean this.
        where: the table, for the message.
        kind: "image", "label" or "caption".

    Raises:
        ValueError: the table has none of them.
    """
    found = find_column(columns, asked, usual)
    if found is None:
        wanted = asked or f"for the {kind} ({', '.join(usual)})"
        raise ValueError(
            f"{where} has no column {wanted}; it has {', '.join(columns) or 'none'}: name it with --{kind}-column"
        )
    return found


def humanize(name: str) -> str:
    """Return a class name as prompts say it."""
    return " ".join(name.replace("_", " ").split())


def require_text(cell: object, where: str, kind: str) -> str:
    """Return a cell that must hold text.

    Args:
        cell: what the source holds.
        where: file and line, row or member, for the message.
        kind: "caption", "label" or "path".

    Raises:
        ValueError: it is blank, no text, or no valid Unicode.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise ValueError(f"{where}: the {kind} is empty")
    if not isinstance(cell, str):
        raise ValueError(f"{where}: the {kind} is no text but of type {type(cell).__name__} ({str(cell)[:40]})")
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: the {kind} is no valid Unicode") from error
    return cell


def require_captions(cell: object, where: str) -> list[str]:
    """Return the captions of an image: a text, or a list of them; ValueError for anything else."""
    captions = cell if isinstance(cell, list | tuple) and cell else [cell]
    return [require_text(caption, where, "caption") for caption in captions]


def number_classes(labels: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the distinct labels as prompts say them, sorted, and the index of each; `a_b` and `a b` are one."""
    classnames, targets = np.unique([humanize(label) for label in labels], return_inverse=True)
    return tuple(map(str, classnames)), targets.astype(np.int64)


def name_numbers(
    targets: np.ndarray, options: SetOptions, where: Callable[[int], str], source: Path | str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the asked names for classes that are numbers from 0, and the numbers as int64.

    Raises:
        ValueError: no names are given, or too few; or an image has no known class.
    """
    if options.labels is None:
        raise ValueError(f"{source}: its labels are numbers without class names; name them in order with --labels")
    unknown = np.flatnonzero((targets < 0) | (targets >= len(options.labels)))
    if len(unknown):
        found = targets[unknown[0]]
        raise ValueError(f"{where(int(unknown[0]))}: the image has no known class: {found} of {len(options.labels)}")
    return options.labels, targets.astype(np.int64)


def merge_classes(names: Sequence[str], targets: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return class names as prompts say them, those that are then equal as one class, and the targets among them."""
    humanized = [humanize(name) for name in names]
    classnames = tuple(dict.fromkeys(humanized))
    return classnames, np.array([classnames.index(name) for name in humanized], dtype=np.int64)[targets]


def set_name(own: str, path: Path) -> str:
    """Return what to call a data set: its own name, or that of its folder where its own names a split."""
    return path.parent.name if own.lower() in SPLIT_NAMES and path.parent.name else own
