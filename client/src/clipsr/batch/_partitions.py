"""The input in parts: image files of a folder, or rows of Parquet files."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import click

from clipsr._images import describe_unreadable
from clipsr._types import FailedImage
from clipsr.batch._models import Image
from clipsr.cli._inputs import Item, check_paths, describe_too_large, no_image, read_item, walk_images

_ENDING = ".parquet"
# Of a column that holds image files, where none is named; data sets of the Hub use the first two.
_COLUMNS = ("image", "img", "bytes", "content")


class Partition(Protocol):
    """Images that are done together, and whose results stand in one file."""

    def names(self) -> Sequence[str]:
        """Return what the output calls the images, in order."""
        ...

    def read(self, *, max_bytes: int) -> list[Image]:
        """Return the content of each image, or why it cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class Files:
    """Image files, named by their paths in the folder."""

    folder: str
    items: tuple[Item, ...]

    def names(self) -> Sequence[str]:
        """See `Partition`."""
        return [str(Path(item.path).relative_to(self.folder)) for item in self.items]

    def read(self, *, max_bytes: int) -> list[Image]:
        """See `Partition`."""
        return [read_item(item, max_bytes=max_bytes) for item in self.items]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a Parquet file, named by the file's path in the folder and their place, such as "train.parquet#17"."""

    path: str
    name: str
    column: str
    start: int
    stop: int

    def names(self) -> Sequence[str]:
        """See `Partition`."""
        return [f"{self.name}#{row}" for row in range(self.start, self.stop)]

    def read(self, *, max_bytes: int) -> list[Image]:
        """See `Partition`."""
        try:
            return [image_of(value, max_bytes=max_bytes) for value in self._read_values()]
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            cause = error if isinstance(error, OSError) else OSError(str(error))
            return [describe_unreadable(cause, "file")] * (self.stop - self.start)

    def _read_values(self) -> Iterator[Any]:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        with parquet.ParquetFile(self.path) as file:
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if first < self.stop and end > self.start:
                    (column,) = file.read_row_group(group, columns=[self.column]).columns
                    yield from column[max(self.start - first, 0) : self.stop - first].to_pylist()
                first = end


def image_of(value: Any, *, max_bytes: int) -> Image:
    """Return the file in a cell: binary, or binary in the field `bytes`, as data sets of the Hub have it."""
    content = value.get("bytes") if isinstance(value, dict) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(content, bytes):
        return content if len(content) <= max_bytes else describe_too_large(max_bytes)
    return FailedImage(code="INVALID_ARGUMENT", reason="IMAGE_EMPTY", message="The row holds no image.")


def plan_partitions(source: Path, *, size: int, column: str | None) -> list[Partition]:
    """Divide the input, always alike.

    Args:
        source: a folder with image files or Parquet files, searched with its subfolders, or a Parquet file; absolute.
        size: images of a partition, at most.
        column: of the image files in Parquet files; None takes the usual names.

    Raises:
        click.UsageError: there are no images, both kinds of files, no such column, or a Parquet file is damaged.
    """
    check_paths([str(source)])
    if source.is_file():
        if source.suffix.lower() != _ENDING:
            raise click.UsageError(f"{str(source)!r} is neither a folder nor a {_ENDING} file.")
        return list(_plan_rows([source], source.parent, size, column))
    left_out: Counter[str] = Counter()
    items = walk_images([str(source)], left_out)
    files: list[Partition] = []
    while part := tuple(islice(items, size)):
        files.append(Files(str(source), part))
    if not left_out[_ENDING]:
        if not files:
            raise no_image([str(source)])
        return files
    if files:
        raise click.UsageError(f"{str(source)!r} holds images and {_ENDING} files: give one kind at a time.")
    tables = sorted(path for path in source.rglob(f"*{_ENDING}") if not _is_hidden(path.relative_to(source)))
    return list(_plan_rows(tables, source, size, column))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _plan_rows(tables: Sequence[Path], folder: Path, size: int, column: str | None) -> Iterator[Partition]:
    parquet: Any = importlib.import_module("pyarrow.parquet")
    for path in tables:
        try:
            with parquet.ParquetFile(path) as file:
                n_rows: int = file.metadata.num_rows
                names: list[str] = file.schema_arrow.names
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            raise click.UsageError(f"{str(path)!r} cannot be read as Parquet: {error}") from None
        found = [name for name in ((column,) if column else _COLUMNS) if name in names]
        if not found:
            raise click.UsageError(f"{str(path)!r} has the columns {', '.join(names)}: name one by --image-column.")
        for start in range(0, n_rows, size):
            yield Rows(str(path), str(path.relative_to(folder)), found[0], start, min(start + size, n_rows))


def fingerprint(partitions: Sequence[Partition]) -> str:
    """Return what changes when the input is divided otherwise, or has other images."""
    digest = sha256()
    for partition in partitions:
        digest.update(json.dumps(list(partition.names())).encode())
    return digest.hexdigest()
