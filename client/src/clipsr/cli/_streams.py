"""Standard output and standard error, whatever the locale."""

from __future__ import annotations

import io
from typing import BinaryIO, TextIO, cast


def configure_stream(stream: TextIO, *, encoding: str | None = None) -> None:
    """Write out what the encoding lacks instead of failing: a path that is not UTF-8, a label beyond the locale."""
    if isinstance(stream, io.TextIOWrapper):
        cast("io.TextIOWrapper[BinaryIO]", stream).reconfigure(encoding=encoding, errors="backslashreplace")
