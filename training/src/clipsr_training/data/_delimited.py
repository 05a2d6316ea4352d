"""CSV and TSV files: a header line, then paths of images, relative to the file, beside labels or captions."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsr_training.data._columns import (
    CAPTION_COLUMNS,
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SetOptions,
    humanize,
    require_column,
    set_name,
)
from clipsr_training.data._image_set import CaptionedImages, ImageSet


def open_labels(path: Path, options: SetOptions) -> ImageSet:
    """Open a file of paths and labels; classes are the labels that occur, sorted.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: a column is missing, a cell is empty, or there are no rows.
    """
    rows = _read(path, options, options.label_column, LABEL_COLUMNS, "label")
    labels = [humanize(label) for _, label in rows]
    classnames = tuple(sorted(set(labels)))
    index = {name: i for i, name in enumerate(classnames)}
    paths = _existing(path, [image for image, _ in rows])
    return ImageSet(
        name=set_name(path.stem, path),
        classnames=classnames,
        targets=np.array([index[label] for label in labels], dtype=np.int64),
        names=[image for image, _ in rows],
        read=lambda i: paths[i].read_bytes(),
    )


def open_captions(path: Path, options: SetOptions) -> CaptionedImages:
    """Open a file of paths and captions; an image may have several lines.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: a column is missing, a cell is empty, or there are no rows.
    """
    captions: dict[str, list[str]] = {}
    for image, caption in _read(path, options, options.caption_column, CAPTION_COLUMNS, "caption"):
        captions.setdefault(image, []).append(caption)
    paths = _existing(path, list(captions))
    return CaptionedImages(
        name=set_name(path.stem, path),
        captions=list(captions.values()),
        names=list(captions),
        read=lambda i: paths[i].read_bytes(),
    )


def _read(path: Path, options: SetOptions, asked: str | None, usual: Sequence[str], kind: str) -> list[tuple[str, str]]:
    """Return (path of the image as written, cell of the other column) of every line."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        columns = reader.fieldnames or []
        image_column = require_column(columns, options.image_column, PATH_COLUMNS, path, "image")
        text_column = require_column(columns, asked, usual, path, kind)
        rows: list[tuple[str, str]] = []
        for row in reader:
            for column in (image_column, text_column):
                if not row[column]:
                    raise ValueError(f"{path}, line {reader.line_num}: {column} is empty")
            rows.append((row[image_column], row[text_column]))
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def _existing(path: Path, images: Sequence[str]) -> list[Path]:
    files = [path.parent / image for image in images]
    if missing := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{path} names {len(missing)} missing files, the first {missing[0]}")
    return files
