"""Files that other programs may read while they are written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def make_output_folder(folder: Path) -> None:
    """Make a folder, and make sure that files can be written into it, before hours are spent on their content.

    Raises:
        OSError: they cannot; the message names the folder and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"cannot write into {folder}: {error.strerror or error}") from error


def to_json(content: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return content as JSON, in characters as they are.

    Raises:
        ValueError: it holds a number that is not finite, which JSON doesn't know.
    """
    return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file such that its path holds the old content or the new, never a part.

    Raises:
        OSError: it cannot be written; the message names the file and the reason.
    """
    # Beside the target: a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
