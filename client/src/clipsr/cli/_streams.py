"""The standard streams, whatever the locale, and even if they are closed."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import BinaryIO, TextIO, cast


def configure_stream(stream: TextIO, *, encoding: str | None = None) -> None:
    """Write out what the encoding lacks instead of failing: a path that is not UTF-8, a label beyond the locale."""
    if isinstance(stream, io.TextIOWrapper):
        cast("io.TextIOWrapper[BinaryIO]", stream).reconfigure(encoding=encoding, errors="backslashreplace")


def open_missing_streams() -> None:
    """Replace streams that were closed when the command began, for which Python has None.

    Standard input is then empty, what is written to standard output fails as on a full disk, and what is written to
    standard error is dropped.
    """
    # Their types do not say that they may be None. In this order, each gets the descriptor that it lacks.
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - stays open
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
