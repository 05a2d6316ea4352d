"""The answers of LibraryService as values; nothing here reads files or talks to anyone."""

from __future__ import annotations

from datetime import datetime, timezone

from google.protobuf.timestamp_pb2 import Timestamp

from clipsr._codecs.classify import decode_route, decode_warnings
from clipsr._errors import NotFoundError
from clipsr._library_types import (
    ImagePage,
    LibraryInfo,
    ReembedProgress,
    SearchHit,
    SearchResult,
    StoredImage,
)
from clipsr.v1 import library_pb2


def decode_library(library: library_pb2.Library) -> LibraryInfo:
    """Return the description of a library."""
    return LibraryInfo(
        name=library.name,
        model_digest=library.model_digest,
        embed_dim=library.embed_dim,
        image_count=library.image_count,
        original_count=library.original_count,
        size_bytes=library.size_bytes,
        keep_originals=library.keep_originals,
        thumbnail_side_px=library.thumbnail_side_px,
        create_time=_decode_time(library.create_time),
        needs_reembedding=library.needs_reembedding,
        is_indexed=library.is_indexed,
        indexed_count=library.indexed_count,
        damage=library.damage,
    )


def decode_libraries(response: library_pb2.ListLibrariesResponse) -> list[LibraryInfo]:
    """Return all libraries, by name."""
    return [decode_library(library) for library in response.libraries]


def pick_library(libraries: list[LibraryInfo], name: str) -> LibraryInfo:
    """Return the one of that name; raise NotFoundError if there is none."""
    found = next((library for library in libraries if library.name == name), None)
    if found is None:
        known = ", ".join(library.name for library in libraries) or "none"
        raise NotFoundError(f"There is no library {name!r}: create it, or use one that is there ({known}).")
    return found


def decode_image(image: library_pb2.StoredImage) -> StoredImage:
    """Return an image of a library; raise ServiceError for what this version does not know."""
    return StoredImage(
        sha256=image.sha256,
        source=image.source,
        tags=tuple(image.tags),
        metadata=dict(image.metadata),
        size_hw=(image.size.height, image.size.width),
        size_bytes=image.size_bytes,
        media_type=image.media_type,
        add_time=_decode_time(image.add_time),
        model_digest=image.model_digest,
        route=decode_route(image.route),
        has_original=image.has_original,
        thumbnail=image.thumbnail or None,
        original=image.original or None,
        embedding=tuple(image.embedding) or None,
    )


def decode_page(response: library_pb2.ListImagesResponse) -> ImagePage:
    """Return a page of a library; raise as decode_image()."""
    return ImagePage(
        images=tuple(decode_image(image) for image in response.images),
        next_page_token=response.next_page_token,
        total_count=response.total_count,
    )


def decode_found(response: library_pb2.SearchByTextResponse | library_pb2.SearchByImageResponse) -> SearchResult:
    """Return what a search found; raise as decode_image()."""
    warnings = response.warnings if isinstance(response, library_pb2.SearchByTextResponse) else ()
    return SearchResult(
        hits=tuple(SearchHit(image=decode_image(hit.image), cosine=hit.cosine) for hit in response.hits),
        warnings=decode_warnings(warnings),
        queue_ms=response.timing.queue_ms,
        inference_ms=response.timing.inference_ms,
        search_ms=response.search_ms,
        model_digest=response.model_digest,
    )


def decode_progress(response: library_pb2.ReembedLibraryResponse) -> ReembedProgress:
    """Return how far the embedding of a library is."""
    return ReembedProgress(
        done_count=response.done_count,
        total_count=response.total_count,
        dropped_count=response.dropped_count,
        library=decode_library(response.library) if response.HasField("library") else None,
    )


def measure_progress(response: library_pb2.ReembedLibraryResponse) -> int:
    """Return how many images are done."""
    return response.done_count


def _decode_time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=timezone.utc)
