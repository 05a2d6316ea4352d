"""The record of a benchmark: one file, a section for each part, written as soon as the part is done.

Parts can be measured one after the other, and one of them again: the others stay as they are. What cannot stand beside
them (another model, profile or machine) is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Record", "RecordError"]

SCHEMA_VERSION = 1


class RecordError(RuntimeError):
    """The file holds figures of something else; the message says which, and what to do."""


class Record:
    """What was measured, part by part.

    Args:
        file: where it is kept; read if it is there.
        about: what all parts have in common: model, profile, device, processor, cores.

    Raises:
        RecordError: the file is about something else, or cannot be read.
    """

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        self._file, self._about = file, dict(about)
        self.parts: dict[str, Any] = {}
        if file.is_file():
            self._read()

    def _read(self) -> None:
        cure = "name another folder by --output, or delete it"
        try:
            document = json.loads(self._file.read_text(encoding="utf-8"))
            found, parts = document["about"], document["parts"]
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(f"{self._file} is no record of this benchmark; {cure}") from error
        for key, value in self._about.items():
            if found.get(key) != value:
                raise RecordError(f"{self._file} holds figures for the {key} {found.get(key)!r}, not {value!r}; {cure}")
        self.parts = parts

    def put(self, part: str, section: Mapping[str, Any]) -> None:
        """Replace a part, and write the file."""
        self.parts[part] = dict(section)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema_version": SCHEMA_VERSION, "about": self._about, "parts": self.parts}
        # Beside it first: an interruption leaves the old file or the new one.
        beside = self._file.with_suffix(".part")
        beside.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(self._file)
