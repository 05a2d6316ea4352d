"""Which column of a table, or field of a sample, means what, and how class names are humanize."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# The names that public sets use, the first that is there counts; fine labels before coarse, as CIFAR-100 is scored.
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")
PATH_COLUMNS = ("image", "img", "filepath", "path", "file_name")
LABEL_COLUMNS = ("label", "fine_label", "labels", "cls")
CAPTION_COLUMNS = ("caption", "text", "title")
# File names that say which part of a data set a file is, not which data set.
_SPLIT_NAMES = frozenset({"train", "training", "test", "validation", "val"})


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """What the name of a data set leaves open.

    Attributes:
        split: of a set that has several.
        image_column: None takes the usual name that the table has.
        label_column: likewise.
        caption_column: likewise; where it is given, captions are read even if there are labels.
        devkit: ImageNet's development kit.
    """

    split: str = "test"
    image_column: str | None = None
    label_column: str | None = None
    caption_column: str | None = None
    devkit: Path | None = None


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
    return name.replace("_", " ")


def set_name(own: str, path: Path) -> str:
    """Return what to call a data set: its own name, or that of its folder where its own names a split."""
    return path.parent.name if own.lower() in _SPLIT_NAMES and path.parent.name else own
