"""Files that other programs may read while they are written."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from safetensors.torch import save
from torch import Tensor

_TEMPORARY = ".clipsr-tmp"


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


def lock_folder(folder: Path) -> int:
    """Keep other runs of this package out of an output folder until the returned descriptor is closed.

    The system closes it with the process, whatever ends that; nothing is left on disk.

    Raises:
        FileExistsError: another run is in there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FileExistsError(
            f"another run writes into {folder}; wait for its end, or choose another --output"
        ) from error
    except OSError:  # a file system without locks
        pass
    return descriptor


def to_json(content: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return content as JSON, in characters as they are.

    Raises:
        ValueError: it holds a number that is not finite, which JSON doesn't know.
    """
    return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)


def write_array(path: Path, n: int, parts: Iterable[np.ndarray]) -> np.ndarray:
    """Write an array [n, ...] part by part, such that its path holds all of it or nothing, and map it into memory.

    Raises:
        OSError: it cannot be written; the message names the file and the reason.
    """
    with replacing(path) as file:
        for part in parts:
            with writing(path):
                if file.tell() == 0:
                    header = {"descr": part.dtype.str, "fortran_order": False, "shape": (n, *part.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(part).data)
    return cast("np.ndarray", np.load(path, mmap_mode="r"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file such that its path holds the old content or the new, never a part.

    Raises:
        OSError: it cannot be written; the message names the file and the reason.
    """
    with replacing(path) as file, writing(path):
        file.write(content)


def write_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file such that its path holds the old content or the new, never a part.

    Raises:
        OSError: it cannot be written; the message names the file and the reason.
    """
    # Not `save_file`: it puts a file of its own there, which others may not read and which no lock protects.
    with replacing(path) as file, writing(path):
        file.write(save(dict(tensors), metadata=dict(metadata)))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends without an error.

    It lies beside its target, for a rename is atomic only within one file system. Those that killed processes left
    there are removed first; a lock, which the system drops with its process, tells them from those in use.
    """
    for left in path.parent.glob(f".*{_TEMPORARY}"):
        _remove_unused(left)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY}")
    with writing(path):
        file = _open_locked(temporary)
    try:
        yield file
        with writing(path):
            file.flush()
            os.fsync(file.fileno())  # where a file system says only now that it is full
            temporary.replace(path)
    finally:
        with suppress(OSError):  # of what an error left in the buffer
            file.close()
        temporary.unlink(missing_ok=True)


def _remove_unused(temporary: Path) -> None:
    with suppress(OSError), temporary.open("rb+") as file:  # in use, without locks, or removed by another process
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.unlink()


def _open_locked(temporary: Path) -> BinaryIO:
    while True:
        file = temporary.open("wb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():
            return file
        file.close()  # taken for a leftover before it was locked


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in the operating system's errors, some of which don't."""
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error
