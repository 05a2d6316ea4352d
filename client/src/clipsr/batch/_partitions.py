"""The input in parts, always alike: which kind it is, and how it is divided."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import chain
from pathlib import PurePosixPath
from typing import Protocol

import click

from clipsr._formats import IMAGE_ENDINGS
from clipsr.batch._files import plan_files, plan_list
from clipsr.batch._models import Image
from clipsr.batch._shards import plan_shard
from clipsr.batch._storage import Storage, storage_of
from clipsr.batch._tables import plan_lance, plan_parquet
from clipsr.cli._inputs import Item, no_image, walk_folder

_PARQUET, _SHARD, _LIST, _LANCE = ".parquet", ".tar", ".txt", ".lance"
_IMAGES = "images"
_VERSIONS = "_versions"  # a folder of every Lance dataset
_READERS = 8  # files of which the beginning or end is read at once


class Partition(Protocol):
    """Images that are done together, and whose results stand in one file."""

    def names(self) -> Sequence[str]:
        """Return what the output calls the images, in order."""
        ...

    def read(self, *, max_bytes: int) -> list[Image]:
        """Return the content of each image, or why it cannot be read.

        Raises:
            StorageUnavailableError: nothing can be read any more.
        """
        ...


def plan_partitions(source: str, *, size: int, column: str | None) -> list[Partition]:
    """Divide the input.

    Args:
        source: a folder, searched with its subfolders, with image files, Parquet files or WebDataset shards; one such
            table or shard; a Lance dataset; or a list of paths and URIs. Absolute, or s3://bucket/….
        size: images of a partition, at most.
        column: of the image files in tables; None takes the usual names.

    Raises:
        click.UsageError: there are no images, several kinds of them, no such column, or a file is damaged.
        StorageUnavailableError: the object store cannot be used.
    """
    storage = storage_of(source)
    folder = source
    try:
        if not storage.is_folder(source):
            folder = source.rpartition("/")[0]
            return _plan_kind(_kind_of(source), [Item(path=source)], folder, size, column)
        if source.endswith(_LANCE) or any(entry.name == _VERSIONS for entry in storage.list_folder(source)):
            return [*plan_lance(source, source.rpartition("/")[2], size, column)]
    except FileNotFoundError as error:
        hint = str(error) if error.errno is None else "check the path"
        raise click.UsageError(f"{source!r} does not exist: {hint}.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte
        raise click.UsageError(f"{source!r} cannot be read: {error}") from None
    return _plan_folder(storage, source, size, column)


def _plan_folder(storage: Storage, source: str, size: int, column: str | None) -> list[Partition]:
    kinds: dict[str, list[Item]] = {}
    for item in walk_folder(source, storage.list_folder, Counter(), {*IMAGE_ENDINGS, _PARQUET, _SHARD}):
        kind = _IMAGES if item.failure else _kind_of(item.path)
        if kind == _IMAGES or not _is_hidden(item.path.removeprefix(source)):
            kinds.setdefault(kind, []).append(item)
    if not kinds:
        raise no_image([source])
    if len(kinds) > 1:
        found = " and ".join(name if name == _IMAGES else f"{name} files" for name in sorted(kinds, reverse=True))
        raise click.UsageError(f"{source!r} holds {found}: give one kind at a time.")
    ((kind, items),) = kinds.items()
    return _plan_kind(kind, items, source, size, column)


def _plan_kind(kind: str, items: Sequence[Item], folder: str, size: int, column: str | None) -> list[Partition]:
    """Divide files of one kind; each is named by its path in the folder."""
    if kind == _IMAGES:
        return [*plan_files(items, folder, size)]
    plans: dict[str, Callable[[str, str], Sequence[Partition]]] = {
        _PARQUET: lambda path, name: plan_parquet(path, name, size, column),
        _SHARD: lambda path, name: plan_shard(path, name, size),
        _LIST: lambda path, _: plan_list(path, folder, size),
    }
    if kind not in plans:
        raise click.UsageError(f"{items[0].path!r} is neither a folder nor a {', '.join(plans)} file.")
    paths = [item.path for item in items]
    names = [path.removeprefix(folder).lstrip("/") for path in paths]
    with ThreadPoolExecutor(_READERS) as readers:
        parts = [*chain.from_iterable(readers.map(plans[kind], paths, names))]
    if not parts and kind == _SHARD:
        raise no_image(paths)
    return parts


def _kind_of(path: str) -> str:
    ending = PurePosixPath(path).suffix.lower()
    return ending if ending in (_PARQUET, _SHARD, _LIST) else _IMAGES if ending in IMAGE_ENDINGS else ""


def _is_hidden(path: str) -> bool:
    """Say whether readers of Parquet folders pass over a file, as over what other programs keep there."""
    return any(part.startswith("_") for part in path.split("/"))


def fingerprint(partitions: Sequence[Partition]) -> str:
    """Return what changes when the input is divided otherwise, or has other images."""
    digest = sha256()
    for partition in partitions:
        digest.update(json.dumps(list(partition.names())).encode())
    return digest.hexdigest()
