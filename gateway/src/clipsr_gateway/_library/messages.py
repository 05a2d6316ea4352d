"""Libraries and rows as the messages of library.proto."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from clipsr.v1 import library_pb2
from clipsr_gateway._images.turn import ROUTE_NUMBERS, size_message
from clipsr_gateway._library.store.records import DamagedLibrary, Found, LibraryInfo, Record


def library_message(info: LibraryInfo | DamagedLibrary, *, served_digest: str) -> library_pb2.Library:
    """Return a library as the message."""
    if isinstance(info, DamagedLibrary):
        return library_pb2.Library(name=info.name, damage=info.message)
    settings = info.settings
    return library_pb2.Library(
        name=info.name,
        model_digest=settings.model_digest,
        embed_dim=settings.embed_dim,
        image_count=info.image_count,
        original_count=info.original_count,
        size_bytes=info.size_bytes,
        keep_originals=settings.keeps_originals,
        thumbnail_side_px=settings.thumbnail_side_px,
        create_time=_timestamp(settings.create_time_us),
        needs_reembedding=settings.model_digest != served_digest,
        is_indexed=info.indexed_count is not None,
        indexed_count=info.indexed_count or 0,
    )


def image_message(record: Record) -> library_pb2.StoredImage:
    """Return a row as the message, with the large columns that were read."""
    return library_pb2.StoredImage(
        sha256=record.sha256,
        source=record.source,
        tags=record.tags,
        metadata=record.metadata,
        size=size_message(record.size_hw),
        size_bytes=record.size_bytes,
        media_type=record.media_type,
        add_time=_timestamp(record.add_time_us),
        model_digest=record.model_digest,
        route=ROUTE_NUMBERS[record.route],
        has_original=record.has_original,
        thumbnail=record.thumbnail,
        original=record.original or b"",
        embedding=[] if record.embedding is None else record.embedding.tolist(),
    )


def hit_message(found: Found) -> library_pb2.SearchHit:
    """Return what a search found as the message."""
    return library_pb2.SearchHit(image=image_message(found.record), cosine=found.cosine)


def _timestamp(microseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(microseconds)
    return stamp
