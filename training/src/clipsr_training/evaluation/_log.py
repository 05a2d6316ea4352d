"""A log that survives interruption: a first line that says what is measured, then a line for each finished piece."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from clipsr_training._files import lock_folder, to_json, write_atomically, writing
from clipsr_training._identity import first_difference


class RunLog:
    """JSON lines in a file; the first holds the settings, which a resumed run must share.

    Args:
        path: the file.
        settings: everything that the figures depend on.
        resume: go on with what the file holds; without it, a file that is there is an error.

    Raises:
        FileExistsError: the file is there, and `resume` is not set; or another run is in its folder.
        ValueError: the file holds another measurement, or no log.
        OSError: it can't be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], *, resume: bool) -> None:
        self._path = path
        self._file: TextIO | None = None
        # Through JSON: tuples and lists are one there.
        self._settings: dict[str, Any] = json.loads(to_json(settings))
        self.entries: list[dict[str, Any]] = []
        self._lock: int | None = lock_folder(path.parent)
        try:
            self._begin(resume=resume)
        except BaseException:
            self.close()
            raise

    def _begin(self, *, resume: bool) -> None:
        path = self._path
        if path.is_file():
            if not resume:
                raise FileExistsError(
                    f"{path.parent} holds a measurement: go on with --resume, or choose another --output"
                )
            self.entries = self._read()
        head = [to_json({"settings": self._settings})]
        lines = head + [to_json(entry) for entry in self.entries]
        # Whole even when resumed: a line that was cut short by a kill is gone.
        write_atomically(path, ("\n".join(lines) + "\n").encode())

    def append(self, *entries: Mapping[str, object]) -> None:
        """Add lines, and hand them to the operating system."""
        lines = [to_json(entry) + "\n" for entry in entries]
        with writing(self._path):
            if self._file is None:
                self._file = self._path.open("a", encoding="utf-8")
            self._file.writelines(lines)
            self._file.flush()
        self.entries += [dict(entry) for entry in entries]

    def close(self) -> None:
        """Close the file, and let other runs into the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> list[dict[str, Any]]:
        settings, entries = read_log(self._path)
        if (difference := first_difference(settings, self._settings)) is not None:
            raise ValueError(f"{self._path} holds another measurement: {difference}; choose another --output")
        return entries


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return settings and entries of a log; a last line that was cut short is left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no log.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no log at {path}")
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1].splitlines()
    try:
        first, *rest = (json.loads(line, parse_constant=_refuse) for line in whole)
        return dict(first["settings"]), rest
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no log of clipsr-eval") from error


def _refuse(constant: str) -> None:
    """NaN and infinities, which Python's parser knows and JSON doesn't."""
    raise ValueError(constant)
