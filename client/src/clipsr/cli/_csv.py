"""The one writer of CSV: the same quoting and the same cells in all commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import click

from clipsr.cli._options import KEPT

_FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets compute what begins with one (OWASP, CSV injection)

csv_safe_option = click.option(
    "--csv-safe",
    "is_csv_safe",
    is_flag=True,
    help="Put ' before texts of CSV that a spreadsheet would take for a formula (= + - @).",
    **KEPT,
)


class CsvWriter:
    r"""Writes the header and then a row for each record.

    Rows end in \n. Cells with a comma, a quote, \r or \n are quoted. Lists and objects are written as JSON.

    Args:
        file: gets the text as it is; it must not translate line ends.
        columns: names of the columns and of the fields of a record; a field that it lacks is an empty cell.
        is_safe: puts an apostrophe before texts that a spreadsheet would take for a formula.
    """

    def __init__(self, file: TextIO, columns: Sequence[str], *, is_safe: bool) -> None:
        self._columns, self._is_safe = columns, is_safe
        # Before Python 3.11.9 the csv module quotes of \r and \n only what its own line end has.
        self._writer = csv.writer(_UnixLines(file), lineterminator="\r\n")
        self._writer.writerow(columns)

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a row."""
        self._writer.writerow([self._to_cell(record.get(column)) for column in self._columns])

    def _to_cell(self, value: object) -> object:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, (list, tuple, dict)):
            return json.dumps(value, ensure_ascii=False)
        if self._is_safe and isinstance(value, str) and value.startswith(_FORMULA_SIGNS):
            return f"'{value}"
        return value


class _UnixLines:
    """Ends rows as the other text files of this program do."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        self._file.write(row.removesuffix("\r\n") + "\n")
