"""The Arrow schema of a library's table, and rows to and from it."""

# pyarrow ships no types and lancedb partial ones: what comes out of them is unknown.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from clipsr_gateway._library.store.filters import metadata_entry
from clipsr_gateway._library.store.records import LibrarySettings, Parts, Record

# Raised when a column changes its meaning; another gateway's tables are refused.
_SCHEMA_VERSION = 1

_PREFIX = "clipsr."

# Lance refuses a second row of the same key, also when two processes write at once.
_PRIMARY_KEY = {"lance-schema:unenforced-primary-key:position": "1"}

_SMALL_COLUMNS = (
    "sha256", "source", "tags", "metadata", "height", "width", "size_bytes", "media_type", "add_time", "model_digest",
    "fit", "route", "is_route_forced", "has_original",
)  # fmt: skip


def make_schema(settings: LibrarySettings) -> pa.Schema:
    """Return the schema; its metadata hold the settings."""
    fields = [
        pa.field("sha256", pa.string(), nullable=False, metadata=_PRIMARY_KEY),
        pa.field("embedding", pa.list_(pa.float32(), settings.embed_dim), nullable=False),
        pa.field("thumbnail", pa.binary(), nullable=False),
        pa.field("original", pa.large_binary()),
        pa.field("has_original", pa.bool_(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("metadata", pa.list_(pa.string()), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("media_type", pa.string(), nullable=False),
        pa.field("add_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("model_digest", pa.string(), nullable=False),
        pa.field("fit", pa.string(), nullable=False),
        pa.field("route", pa.string(), nullable=False),
        pa.field("is_route_forced", pa.bool_(), nullable=False),
    ]
    values = {
        "schema": _SCHEMA_VERSION,
        "model_digest": settings.model_digest,
        "keeps_originals": int(settings.keeps_originals),
        "thumbnail_side_px": settings.thumbnail_side_px,
        "create_time_us": settings.create_time_us,
    }
    return pa.schema(fields, metadata={_PREFIX + name: str(value) for name, value in values.items()})


def read_settings(schema: pa.Schema) -> LibrarySettings:
    """Return what `make_schema` wrote.

    Raises:
        ValueError: the table is not a library, or one of another version.
    """
    values = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    version = values.get(_PREFIX + "schema")
    if version != str(_SCHEMA_VERSION):
        raise ValueError(f"its schema is of version {version or 'none'}, this gateway reads {_SCHEMA_VERSION}")
    embedding = cast("Any", schema.field("embedding").type)
    return LibrarySettings(
        model_digest=values[_PREFIX + "model_digest"],
        embed_dim=embedding.list_size,
        keeps_originals=values[_PREFIX + "keeps_originals"] == "1",
        thumbnail_side_px=int(values[_PREFIX + "thumbnail_side_px"]),
        create_time_us=int(values[_PREFIX + "create_time_us"]),
    )


def column_names(parts: Parts) -> list[str]:
    """Return the columns to read."""
    wanted = {"thumbnail": parts.thumbnail, "original": parts.original, "embedding": parts.embedding}
    return [*_SMALL_COLUMNS, *(name for name, is_wanted in wanted.items() if is_wanted)]


def to_arrow(records: Sequence[Record], schema: pa.Schema) -> pa.Table:
    """Return complete records as rows."""
    vectors = np.concatenate([_vector(record) for record in records])
    dim = cast("Any", schema.field("embedding").type).list_size
    columns: dict[str, Any] = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float32()), dim),
        "metadata": _metadata_entries(records),
        "tags": [list(record.tags) for record in records],
        "height": [record.size_hw[0] for record in records],
        "width": [record.size_hw[1] for record in records],
        "add_time": [record.add_time_us for record in records],
    }
    for name in schema.names:
        if name not in columns:
            columns[name] = [getattr(record, name) for record in records]
    arrays = [_array(columns[field.name], field.type) for field in schema]
    return pa.table(arrays, schema=schema)


def edited_columns(records: Sequence[Record], schema: pa.Schema) -> pa.Table:
    """Return the key of records and what can change of them; the other columns of their rows stay."""
    columns: dict[str, Any] = {
        "sha256": [record.sha256 for record in records],
        "source": [record.source for record in records],
        "tags": [list(record.tags) for record in records],
        "metadata": _metadata_entries(records),
    }
    fields = [schema.field(name) for name in columns]
    return pa.table([pa.array(columns[each.name], each.type) for each in fields], schema=pa.schema(fields))


def read_records(rows: pa.Table) -> list[Record]:
    """Return rows with the columns of `column_names`, in their order."""
    times = rows.column("add_time").cast(pa.int64()).to_pylist()
    vectors = _vectors(rows) if "embedding" in rows.column_names else [None] * rows.num_rows
    small = rows.drop_columns([name for name in ("embedding", "add_time") if name in rows.column_names])
    return [
        Record(
            sha256=row["sha256"],
            source=row["source"],
            tags=tuple(row["tags"]),
            metadata=dict(entry.split("=", 1) for entry in row["metadata"]),
            size_hw=(row["height"], row["width"]),
            size_bytes=row["size_bytes"],
            media_type=row["media_type"],
            add_time_us=time_us,
            model_digest=row["model_digest"],
            fit=row["fit"],
            route=row["route"],
            is_route_forced=row["is_route_forced"],
            has_original=row["has_original"],
            thumbnail=row.get("thumbnail", b""),
            original=row.get("original"),
            embedding=vector,
        )
        for row, time_us, vector in zip(cast("list[Any]", small.to_pylist()), times, vectors, strict=True)
    ]


def _metadata_entries(records: Sequence[Record]) -> list[list[str]]:
    return [[metadata_entry(*item) for item in sorted(record.metadata.items())] for record in records]


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _vector(record: Record) -> Any:
    if record.embedding is None:
        raise ValueError(f"the record {record.sha256} has no embedding")
    return record.embedding


def _vectors(rows: pa.Table) -> list[Any]:
    column = cast("Any", rows.column("embedding").combine_chunks())
    return list(column.flatten().to_numpy(zero_copy_only=False).reshape(rows.num_rows, column.type.list_size))
