"""Images that are files of their own: those of a folder, or those that a list names."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from urllib.parse import urlsplit

import click

from clipsr._types import FailedImage
from clipsr.batch._models import Image
from clipsr.batch._storage import join, storage_of
from clipsr.cli._inputs import Item, describe_too_large

_READERS = 16  # files on their way at once; over a network each takes a while
_TIMEOUT_S = 30.0
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_URI = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_CODES = {401: "PERMISSION_DENIED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 410: "NOT_FOUND"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Image files.

    Attributes:
        shown: what the output calls each.
        items: where each is.
    """

    shown: tuple[str, ...]
    items: tuple[Item, ...]

    def names(self) -> Sequence[str]:
        """See `Partition`."""
        return self.shown

    def read(self, *, max_bytes: int) -> list[Image]:
        """See `Partition`."""
        with ThreadPoolExecutor(_READERS) as readers:
            return list(readers.map(partial(_read, max_bytes=max_bytes), self.items))


def plan_files(items: Iterable[Item], folder: str, size: int) -> list[Files]:
    """Divide the files of a folder, which the output calls by their paths there."""
    return _divide(((item.path.removeprefix(folder).lstrip("/") or ".", item) for item in items), size)


def plan_list(path: str, folder: str, size: int) -> list[Files]:
    """Divide the files that a list names, one a line: paths, which may begin at the list's folder, or URIs.

    Raises:
        click.UsageError: it cannot be read, or names nothing.
    """
    try:
        text = storage_of(path).read(path).decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise click.UsageError(f"{path!r} cannot be read: {error.strerror or error}") from None
    lines = [line for line in (line.strip("\r") for line in text.split("\n")) if line.strip()]
    if not lines:
        raise click.UsageError(f"{path!r} names no image: write a path or a URI a line.")
    return _divide(((line, Item(path=_find(line, folder))) for line in lines), size)


def _divide(named: Iterable[tuple[str, Item]], size: int) -> list[Files]:
    remaining = iter(named)
    parts: list[Files] = []
    while part := list(islice(remaining, size)):
        shown, items = zip(*part, strict=True)
        parts.append(Files(shown=shown, items=items))
    return parts


def _find(line: str, folder: str) -> str:
    if line.lower().startswith("file://"):
        return urllib.request.url2pathname(urlsplit(line).path)
    return line if _URI.match(line) else join(folder, line)


def _read(item: Item, *, max_bytes: int) -> Image:
    if item.failure is not None:
        return item.failure
    if _HTTP.match(item.path):
        return _fetch(item.path, max_bytes)
    try:
        return storage_of(item.path).read_image(item.path, max_bytes=max_bytes)
    except click.UsageError as error:
        return FailedImage(code="INVALID_ARGUMENT", reason="", message=error.message)
    except ValueError as error:  # a NUL byte
        return FailedImage(code="INVALID_ARGUMENT", reason="", message=f"This is no path: {error}.")


def _fetch(url: str, max_bytes: int) -> Image:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read(max_bytes + 1)
    except urllib.error.HTTPError as error:
        error.close()
        message = f"The server answers {error.code} ({error.reason})."
        return FailedImage(code=_CODES.get(error.code, "UNAVAILABLE"), reason="", message=message)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return FailedImage(code="UNAVAILABLE", reason="", message=f"The image could not be fetched: {error}.")
    return content if len(content) <= max_bytes else describe_too_large(max_bytes)
