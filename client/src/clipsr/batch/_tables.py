"""Images in the rows of Parquet files and Lance datasets."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from clipsr._images import describe_unreadable
from clipsr._types import FailedImage
from clipsr.batch._models import Image
from clipsr.batch._storage import storage_errors, storage_of
from clipsr.cli._inputs import describe_too_large

# Of a column that holds image files, where none is named; data sets of the Hub use the first two.
_COLUMNS = ("image", "img", "bytes", "content")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParquetRows:
    """Rows of a Parquet file, named by the file's path in the folder and their place, such as "train.parquet#17".

    Attributes:
        path: of the file.
        name: what the output calls it.
        column: holds the image files.
        start: the first row.
        stop: behind the last row.
    """

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
            with storage_errors(self.path):
                return [image_of(value, max_bytes=max_bytes) for value in self._values()]
        except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
            cause = error if isinstance(error, OSError) else OSError(str(error))
            return [describe_unreadable(cause, "file")] * (self.stop - self.start)

    def _values(self) -> Iterator[Any]:
        parquet: Any = importlib.import_module("pyarrow.parquet")
        with storage_of(self.path).open(self.path) as opened, parquet.ParquetFile(opened) as file:
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if first < self.stop and end > self.start:
                    (column,) = file.read_row_group(group, columns=[self.column]).columns
                    yield from column[max(self.start - first, 0) : self.stop - first].to_pylist()
                first = end


@dataclass(frozen=True, kw_only=True, slots=True)
class LanceRows(ParquetRows):
    """Rows of a Lance dataset, named likewise.

    Attributes:
        version: of the dataset, when the run began.
    """

    version: int

    def _values(self) -> Iterator[Any]:
        dataset = _lance().dataset(self.path, version=self.version)
        (column,) = dataset.take(list(range(self.start, self.stop)), columns=[self.column]).columns
        yield from column.to_pylist()


def image_of(value: Any, *, max_bytes: int) -> Image:
    """Return the file in a cell: binary, or binary in the field `bytes`, as data sets of the Hub have it."""
    content = value.get("bytes") if isinstance(value, dict) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(content, bytes):
        return content if len(content) <= max_bytes else describe_too_large(max_bytes)
    return FailedImage(code="INVALID_ARGUMENT", reason="IMAGE_EMPTY", message="The row holds no image.")


def plan_parquet(path: str, name: str, size: int, column: str | None) -> list[ParquetRows]:
    """Divide a Parquet file.

    Raises:
        click.UsageError: it is damaged, or has no such column.
    """
    parquet: Any = importlib.import_module("pyarrow.parquet")
    try:
        with storage_of(path).open(path) as opened, parquet.ParquetFile(opened) as file:
            n_rows: int = file.metadata.num_rows
            columns: list[str] = file.schema_arrow.names
    except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
        raise click.UsageError(f"{path!r} cannot be read as Parquet: {error}") from None
    found = _find_column(path, columns, column)
    return [
        ParquetRows(path=path, name=name, column=found, start=start, stop=min(start + size, n_rows))
        for start in range(0, n_rows, size)
    ]


def plan_lance(path: str, name: str, size: int, column: str | None) -> list[LanceRows]:
    """Divide a Lance dataset as it is now.

    Raises:
        click.UsageError: it is damaged, has no such column, or pylance is not installed.
    """
    lance = _lance()
    try:
        with storage_errors(path):
            dataset = lance.dataset(path)
            version: int = dataset.version
            n_rows: int = dataset.count_rows()
            columns: list[str] = dataset.schema.names
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{path!r} cannot be read as a Lance dataset: {error}") from None
    found = _find_column(path, columns, column)
    return [
        LanceRows(path=path, name=name, column=found, start=start, stop=min(start + size, n_rows), version=version)
        for start in range(0, n_rows, size)
    ]


def _find_column(path: str, names: Sequence[str], wanted: str | None) -> str:
    found = [name for name in ((wanted,) if wanted else _COLUMNS) if name in names]
    if not found:
        raise click.UsageError(f"{path!r} has the columns {', '.join(names)}: name one by --image-column.")
    return found[0]


def _lance() -> Any:
    try:
        return importlib.import_module("lance")
    except ImportError:
        raise click.UsageError("Lance datasets need pylance: pip install 'clipsr[lance]'.") from None
