"""The messages of LibraryService, to and from values; of what a caller gives, only image files are read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypedDict, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from clipsr import _images
from clipsr._codecs.arguments import as_count, as_flag, as_text, as_texts, invalid, show
from clipsr._codecs.classify import (
    decode_failure,
    decode_route,
    encode_fit,
    encode_min_cosine,
    encode_route,
    message_bytes,
    unreadable,
)
from clipsr._codecs.stream import MESSAGE_OVERHEAD_BYTES, StreamCodec
from clipsr._errors import InvalidRequestError
from clipsr._library_types import AddedImage, AddOutcome, ImageChanges, ImageFilter, NewImage, PresentImage
from clipsr._types import FailedImage, Fit, ImageSource, Route
from clipsr.v1 import library_pb2, types_pb2

AddSource = ImageSource | NewImage
"""An image to add; of a path, the path becomes the source."""

_MAX_HASHES = 1_000  # of one request; below the service's LibraryLimits.max_delete_hashes

_Request = TypeVar("_Request", bound=Message)


@dataclass(frozen=True, slots=True)
class _Held:
    """An image that was read, and what is said of it."""

    content: bytes
    described: library_pb2.NewImage  # without its content, which would be copied twice


def add_codec(
    name: str, *, fit: Fit, route: Route, update_present: bool
) -> StreamCodec[AddSource, _Held, AddedImage | PresentImage]:
    """Return the codec of AddImages.

    Raises:
        InvalidRequestError: an option is not known.
    """
    options = library_pb2.AddImagesOptions(
        library=_name(name),
        fit=encode_fit(fit),
        route=encode_route(route),
        update_present=as_flag("update_present", update_present),
    )
    return StreamCodec(
        first=library_pb2.AddImagesRequest(options=options),
        read=_read,
        content_bytes=lambda held: len(held.content),
        measure=lambda held: message_bytes(len(held.content)) + held.described.ByteSize() + MESSAGE_OVERHEAD_BYTES,
        encode=_encode_image,
        decode=_decode_answer,
    )


def encode_create(name: str, *, keep_originals: bool, thumbnail_side_px: int) -> library_pb2.CreateLibraryRequest:
    """Return the request for a new library.

    Raises:
        InvalidRequestError: a value that no message can hold.
    """
    return library_pb2.CreateLibraryRequest(
        name=_name(name),
        discard_originals=not as_flag("keep_originals", keep_originals),
        thumbnail_side_px=as_count("thumbnail_side_px", thumbnail_side_px),
    )


def encode_parts(*, thumbnail: bool, original: bool, embedding: bool) -> library_pb2.ImageParts:
    """Return what is sent along with images."""
    return library_pb2.ImageParts(
        thumbnail=as_flag("return_thumbnail", thumbnail),
        original=as_flag("return_original", original),
        embedding=as_flag("return_embedding", embedding),
    )


def encode_search_options(
    *,
    top_k: int,
    where: ImageFilter | None,
    parts: library_pb2.ImageParts,
    min_cosine: float | None,
    is_exact: bool,
) -> library_pb2.SearchOptions:
    """Return what holds for both kinds of search; raise as encode_filter()."""
    return library_pb2.SearchOptions(
        top_k=as_count("top_k", top_k),
        filter=_encode_filter(where),
        parts=parts,
        min_cosine=encode_min_cosine(min_cosine),
        is_exact=as_flag("is_exact", is_exact),
    )


def encode_search_text(
    name: str, text: str, *, templates: Sequence[str], options: library_pb2.SearchOptions
) -> library_pb2.SearchByTextRequest:
    """Return the request of a search by words.

    Raises:
        InvalidRequestError: a text cannot be written as UTF-8.
        TypeError: templates are one string instead of a sequence of strings.
    """
    return library_pb2.SearchByTextRequest(
        library=_name(name), text=as_text("text", text), templates=as_texts("templates", templates), options=options
    )


def encode_search_image(
    name: str,
    content: bytes | None,
    *,
    sha256: str | None,
    fit: Fit,
    route: Route,
    exclude_query: bool,
    options: library_pb2.SearchOptions,
) -> library_pb2.SearchByImageRequest:
    """Return the request of a search by example.

    Raises:
        InvalidRequestError: there is not exactly one of image and sha256, or an option is not known.
    """
    if (content is None) == (sha256 is None):
        raise invalid("query", "Give either an image, or the sha256 of an image of the library.")
    request = library_pb2.SearchByImageRequest(
        library=_name(name),
        fit=encode_fit(fit),
        route=encode_route(route),
        options=options,
        exclude_query=as_flag("exclude_query", exclude_query),
    )
    if sha256 is not None:
        request.sha256 = as_text("sha256", sha256)
    elif content is not None:
        request.image.content = content
    return request


def encode_list(
    name: str,
    *,
    where: ImageFilter | None,
    page_size: int,
    page_token: str,
    newest_first: bool,
    parts: library_pb2.ImageParts,
) -> library_pb2.ListImagesRequest:
    """Return the request for a page; raise InvalidRequestError for a value that no message can hold."""
    return library_pb2.ListImagesRequest(
        library=_name(name),
        page_size=as_count("page_size", page_size),
        page_token=as_text("page_token", page_token),
        filter=_encode_filter(where),
        parts=parts,
        newest_first=as_flag("newest_first", newest_first),
    )


def encode_reembedding(name: str, *, drop_without_original: bool) -> library_pb2.ReembedLibraryRequest:
    """Return the request that embeds all images again."""
    return library_pb2.ReembedLibraryRequest(
        library=_name(name), drop_without_original=as_flag("drop_without_original", drop_without_original)
    )


def encode_get(name: str, sha256: str, *, parts: library_pb2.ImageParts) -> library_pb2.GetImageRequest:
    """Return the request for one image."""
    return library_pb2.GetImageRequest(library=_name(name), sha256=as_text("sha256", sha256), parts=parts)


def encode_deletions(
    name: str, hashes: Sequence[str], *, where: ImageFilter | None
) -> Iterator[library_pb2.DeleteImagesRequest]:
    """Yield the requests that delete images: by their names in as few as possible, or one by a filter.

    Raises:
        InvalidRequestError: there is not exactly one of hashes and filter.
        TypeError: hashes are one string instead of a sequence of strings.
    """
    for selection in _encode_selections(hashes, where):
        yield library_pb2.DeleteImagesRequest(library=_name(name), **selection)


def encode_updates(
    name: str, hashes: Sequence[str], *, where: ImageFilter | None, changes: ImageChanges
) -> Iterator[library_pb2.UpdateImagesRequest]:
    """Yield the requests that change images; raise as encode_deletions()."""
    if not isinstance(changes, ImageChanges):  # pyright: ignore[reportUnnecessaryIsInstance] - by callers without types
        raise TypeError(f"changes is {show(changes)}; give ImageChanges(…)")
    message = library_pb2.ImageChanges(
        source=None if changes.source is None else as_text("source", changes.source),
        add_tags=as_texts("add_tags", changes.add_tags),
        remove_tags=as_texts("remove_tags", changes.remove_tags),
        clear_tags=as_flag("clear_tags", changes.clear_tags),
        set_metadata=_encode_metadata(changes.set_metadata),
        remove_metadata=as_texts("remove_metadata", changes.remove_metadata),
        clear_metadata=as_flag("clear_metadata", changes.clear_metadata),
    )
    for selection in _encode_selections(hashes, where):
        yield library_pb2.UpdateImagesRequest(library=_name(name), changes=message, **selection)


class _Selection(TypedDict, total=False):
    """Which images a request means."""

    hashes: library_pb2.ImageHashes
    filter: library_pb2.ImageFilter | None


def _encode_selections(hashes: Sequence[str], where: ImageFilter | None) -> Iterator[_Selection]:
    """Yield the selections of as few requests as possible."""
    hashes = as_texts("hashes", hashes)
    if hashes and where is not None:
        raise invalid("selection", "Give either hashes or a filter: which images?")
    if where is not None:
        yield {"filter": _encode_filter(where)}
    for start in range(0, len(hashes), _MAX_HASHES):
        yield {"hashes": library_pb2.ImageHashes(sha256=hashes[start : start + _MAX_HASHES])}


def _encode_filter(where: ImageFilter | None) -> library_pb2.ImageFilter | None:
    if where is None:
        return None
    if not isinstance(where, ImageFilter):  # pyright: ignore[reportUnnecessaryIsInstance] - by callers without types
        raise TypeError(f"where is {show(where)}; give ImageFilter(…)")
    return library_pb2.ImageFilter(
        all_tags=as_texts("all_tags", where.all_tags),
        any_tags=as_texts("any_tags", where.any_tags),
        metadata=_encode_metadata(where.metadata),
        added_from=_encode_time("added_from", where.added_from),
        added_before=_encode_time("added_before", where.added_before),
        source_prefix=as_text("source_prefix", where.source_prefix),
    )


def _encode_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    return {as_text("a key of metadata", key): as_text(f"metadata[{key!r}]", metadata[key]) for key in metadata}


def _encode_time(field: str, time: datetime | None) -> Timestamp | None:
    given: object = time
    if time is None:
        return None
    if not isinstance(given, datetime):
        raise TypeError(f"{field} is {show(given)}; give a datetime, such as datetime(2026, 1, 1, tzinfo=timezone.utc)")
    if time.tzinfo is None:
        raise invalid(field, f"{field} has no time zone: give one, such as datetime(2026, 1, 1, tzinfo=timezone.utc).")
    stamp = Timestamp()
    stamp.FromDatetime(time.astimezone(timezone.utc))
    return stamp


def _read(source: AddSource | FailedImage) -> _Held | FailedImage:
    """Return what is held of an image until it is answered, or why it cannot be added; raises TypeError for others."""
    new = source if isinstance(source, (NewImage, FailedImage)) else NewImage(content=source, source=_name_of(source))
    if isinstance(new, FailedImage):
        return new
    content = _images.try_read_image(new.content)
    if isinstance(content, FailedImage):
        return content
    try:
        described = library_pb2.NewImage(
            source=as_text("source", new.source),
            tags=as_texts("tags", new.tags),
            metadata=_encode_metadata(new.metadata),
        )
    except InvalidRequestError as error:
        return _images.describe_invalid(error)
    return _Held(content, described)


def _name_of(source: ImageSource) -> str:
    """Return a path as its image's source; a name that is not UTF-8 is written with escapes."""
    if isinstance(source, (str, os.PathLike)):
        return os.fsencode(source).decode("utf-8", "backslashreplace")
    return ""


def _encode_image(index: int, held: _Held) -> library_pb2.AddImagesRequest:
    image = library_pb2.NewImage(index=index, image=types_pb2.Image(content=held.content))
    image.MergeFrom(held.described)
    return library_pb2.AddImagesRequest(image=image)


def _decode_answer(response: library_pb2.AddImagesResponse) -> AddOutcome:
    outcome = response.WhichOneof("outcome")
    if outcome == "error":
        return response.index, decode_failure(response.error)
    if outcome == "already_present":
        present = response.already_present
        return response.index, PresentImage(sha256=present.sha256, differs=present.differs, updated=present.updated)
    if outcome is None:
        raise unreadable("an answer without outcome")
    added = response.added
    return response.index, AddedImage(
        sha256=added.sha256,
        size_hw=(added.size.height, added.size.width),
        route=decode_route(added.route),
        has_original=added.has_original,
        queue_ms=added.timing.queue_ms,
        inference_ms=added.timing.inference_ms,
    )


def _name(name: str) -> str:
    """Return a library's name as it is; raises InvalidRequestError for an empty one, whoever else judges the rest."""
    if not name:
        raise invalid("library", "The library's name is empty: give the name of a library.")
    return name
