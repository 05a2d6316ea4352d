"""Prints and follows log files."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

_POLL_S = 0.3


def print_logs(logs: Sequence[Path], output: TextIO, *, last_lines: int) -> dict[Path, int]:
    """Print the end of each log, every line after its name; returns how far each was read, in bytes."""
    positions: dict[Path, int] = {}
    for log in logs:
        content = log.read_bytes() if log.exists() else b""
        positions[log] = len(content)
        lines = content.decode("utf-8", errors="replace").splitlines()
        for line in lines[max(0, len(lines) - last_lines) :]:
            print(f"{log.stem} | {line}", file=output)
    output.flush()
    return positions


def follow_logs(
    logs: Sequence[Path],
    output: TextIO,
    *,
    positions: dict[Path, int] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Print what is added to the logs; without `stop`, forever."""
    positions = dict(positions or {})
    files: dict[Path, int] = {}
    while stop is None or not stop.is_set():
        for log in logs:
            position = positions.get(log, 0)
            try:
                status = log.stat()
            except OSError:  # not there yet, or being replaced or rotated
                continue
            # A new file after a restart, or the same one emptied because it had grown large.
            if files.setdefault(log, status.st_ino) != status.st_ino or status.st_size < position:
                files[log] = status.st_ino
                position = 0
            try:
                with log.open("rb") as file:
                    file.seek(position)
                    added = file.read()
            except OSError:
                continue
            whole = added[: added.rfind(b"\n") + 1]
            positions[log] = position + len(whole)
            for line in whole.decode("utf-8", errors="replace").splitlines():
                print(f"{log.stem} | {line}", file=output, flush=True)
        time.sleep(_POLL_S)
