"""What a library holds, in Python's own terms."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsr_gateway._backend.protocol import Fit, Route


@dataclass(frozen=True, kw_only=True)
class LibrarySettings:
    """What is decided when a library is created.

    Attributes:
        model_digest: the model whose embeddings it holds.
        embed_dim: D.
        keeps_originals: whether files are kept.
        thumbnail_side_px: longest side of a thumbnail.
        create_time_us: microseconds since 1970, UTC.
    """

    model_digest: str
    embed_dim: int
    keeps_originals: bool
    thumbnail_side_px: int
    create_time_us: int


@dataclass(frozen=True, kw_only=True)
class LibraryInfo:
    """A library as it is now.

    Attributes:
        name: its name.
        settings: as created, or as embedded anew.
        image_count: rows.
        original_count: rows with a file.
        size_bytes: on disk, old versions included; in an object store those of the newest version.
        indexed_count: rows that the approximate index covers; None if there is no index.
    """

    name: str
    settings: LibrarySettings
    image_count: int
    original_count: int
    size_bytes: int
    indexed_count: int | None


@dataclass(frozen=True, kw_only=True)
class DamagedLibrary:
    """A library that can only be dropped.

    Attributes:
        name: its name.
        message: why, and what to do.
    """

    name: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """A row.

    Attributes:
        sha256: of the file's bytes, lower-case hexadecimal; the primary key.
        source: the caller's id or path.
        tags: words to filter by.
        metadata: values by key.
        size_hw: rows and columns, after EXIF orientation.
        size_bytes: of the file.
        media_type: of the file.
        add_time_us: microseconds since 1970, UTC; 0 until the row is written.
        model_digest: of the model that made the embedding.
        fit: as asked for when it was embedded.
        route: the route taken.
        is_route_forced: whether the caller asked for that route.
        has_original: whether the file is kept.
        thumbnail: a WebP file; empty where it was not read.
        original: the file; None where it is not kept or was not read.
        embedding: [D] float32, L2-normalized; None where it was not read.
    """

    sha256: str
    source: str
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    size_hw: tuple[int, int]
    size_bytes: int
    media_type: str
    add_time_us: int = 0
    model_digest: str
    fit: Fit
    route: Route
    is_route_forced: bool
    has_original: bool
    thumbnail: bytes = b""
    original: bytes | None = None
    embedding: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which of the large columns are read."""

    thumbnail: bool = False
    original: bool = False
    embedding: bool = False


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Conditions on rows, all of which must hold; see ImageFilter in library.proto.

    Attributes:
        all_tags, any_tags: tags.
        metadata: values by key.
        added_from_us, added_before_us: microseconds since 1970, UTC; None does not count.
        source_prefix: empty does not count.
    """

    all_tags: tuple[str, ...] = ()
    any_tags: tuple[str, ...] = ()
    metadata: Mapping[str, str] | None = None
    added_from_us: int | None = None
    added_before_us: int | None = None
    source_prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A row that a search found.

    Attributes:
        record: the row.
        cosine: with the query, in [-1, 1].
    """

    record: Record
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of rows.

    Attributes:
        records: in the order of their time; without those that were deleted in this moment.
        total: rows on all pages.
        end: time (microseconds since 1970) and hash of the row behind which the next page begins; None if there is
            none.
    """

    records: tuple[Record, ...]
    total: int
    end: tuple[int, str] | None


def content_hash(content: bytes) -> str:
    """Return the SHA-256 of a file, lower-case hexadecimal: its name within a library."""
    return hashlib.sha256(content).hexdigest()
