"""CSV and TSV files: a header line, then paths of images, relative to the file, beside labels or captions."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipsr_training.data._columns import (
    CAPTION_COLUMNS,
    LABEL_COLUMNS,
    PATH_COLUMNS,
    SetOptions,
    find_column,
    number_classes,
    require_column,
    require_text,
    set_name,
)
from clipsr_training.data._image_set import CaptionedImages, ImageSet


def open_labels(path: Path, options: SetOptions) -> ImageSet:
    """Open a file of paths and labels; classes are the labels that occur, sorted.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: the file is not what it should be; the message names the line.
    """
    rows = _read(path, options, options.label_column, LABEL_COLUMNS, "label")
    classnames, targets = number_classes([label for _, label in rows])
    paths = _existing(path, [image for image, _ in rows])
    return ImageSet(
        name=set_name(path.stem, path),
        classnames=classnames,
        targets=targets,
        names=[image for image, _ in rows],
        read=lambda i: paths[i].read_bytes(),
    )


def open_pairs(path: Path, options: SetOptions) -> ImageSet | CaptionedImages:
    """Open a file of paths and captions, or of paths and labels where it has no captions or a label column is named.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: the file is not what it should be; the message names the line.
    """
    _, header = next(_cells(path), (0, []))
    has_captions = find_column(header, options.caption_column, CAPTION_COLUMNS) is not None
    has_labels = find_column(header, options.label_column, LABEL_COLUMNS) is not None
    if options.caption_column is None and has_labels and (options.label_column is not None or not has_captions):
        return open_labels(path, options)
    return _open_captions(path, options)


def _open_captions(path: Path, options: SetOptions) -> CaptionedImages:
    """Open a file of paths and captions; an image may have several lines.

    Raises:
        FileNotFoundError: an image is missing.
        ValueError: the file is not what it should be; the message names the line.
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
    lines = _cells(path)
    _, header = next(lines, (0, []))
    places = [
        header.index(require_column(header, options.image_column, PATH_COLUMNS, path, "image")),
        header.index(require_column(header, asked, usual, path, kind)),
    ]
    if twice := [header[place] for place in places if header.count(header[place]) > 1]:
        raise ValueError(f"{path} has two columns {twice[0]}")
    rows: list[tuple[str, str]] = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise ValueError(f"{path}, line {number}: {len(cells)} cells, but the header has {len(header)}")
        image, text = (cells[place] for place in places)
        where = f"{path}, line {number}"
        rows.append((require_text(image, where, "path"), require_text(text, where, kind)))
    if not rows:
        raise ValueError(f"{path} holds no rows")
    return rows


def _cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the line where it ends, cells) of every row that is not blank.

    Between tabs a quotation mark is a character like others. OpenCLIP separates by tabs whatever the file is called.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    header = content.partition("\n")[0]
    is_tabbed = path.suffix.lower() == ".tsv" or ("\t" in header and "," not in header)
    delimiter, quoting = ("\t", csv.QUOTE_NONE) if is_tabbed else (",", csv.QUOTE_MINIMAL)
    reader = csv.reader(io.StringIO(content, newline=""), strict=True, delimiter=delimiter, quoting=quoting)
    try:
        yield from ((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _existing(path: Path, images: Sequence[str]) -> list[Path]:
    files = [path.parent / image for image in images]
    if missing := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{path} names {len(missing)} missing files, the first {missing[0]}")
    return files
