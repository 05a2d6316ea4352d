"""What requests to libraries may hold; everything wrong is found before anything is done."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from clipsr.v1 import library_pb2
from clipsr_gateway._library.store.edits import Changes
from clipsr_gateway._library.store.records import Filter, Parts, Record
from clipsr_gateway._limits import LibraryLimits
from clipsr_gateway.errors import InvalidRequestError, NotInLibraryError, Violation

_DEFAULT_TOP_K = 10
_DEFAULT_PAGE_SIZE = 100

# Of new libraries: what galleries of web pages show.
_DEFAULT_THUMBNAIL_SIDE_PX = 256

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_HASH = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")

# Of a caller's text in a sentence.
_SHOWN_CHARACTERS = 60
_SHOWN_HASH = 12


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """Checked SearchOptions.

    Attributes:
        top_k: images to return.
        where: which are searched.
        parts: what is sent along.
        min_cosine: least cosine; -1 lets all pass.
        is_exact: whether the index is left aside.
    """

    top_k: int
    where: Filter
    parts: Parts
    min_cosine: float
    is_exact: bool


def search_plan(options: library_pb2.SearchOptions, *, limits: LibraryLimits) -> SearchPlan:
    """Check the options of a search.

    Raises:
        InvalidRequestError: with one violation for every field that is wrong.
    """
    violations: list[Violation] = []
    if options.top_k > limits.max_top_k:
        message = f"top_k is {options.top_k:,}; a search returns at most {limits.max_top_k:,} images."
        violations.append(Violation(field="options.top_k", reason="TOP_K_TOO_LARGE", message=message))
    has_minimum = options.HasField("min_cosine")
    if has_minimum and not -1 <= options.min_cosine <= 1:  # NaN is refused, too
        message = f"min_cosine is {options.min_cosine:g}; a cosine is a number from -1 to 1."
        violations.append(Violation(field="options.min_cosine", reason="THRESHOLD_OUT_OF_RANGE", message=message))
    violations += _filter_violations(options.filter, "options.filter", limits)
    if violations:
        raise InvalidRequestError(violations)
    return SearchPlan(
        top_k=options.top_k or _DEFAULT_TOP_K,
        where=_filter(options.filter),
        parts=parse_parts(options.parts),
        min_cosine=options.min_cosine if has_minimum else -1.0,
        is_exact=options.is_exact,
    )


def check_name(name: str, *, field: str, limits: LibraryLimits) -> str:
    """Return a library's name if it can be one.

    Raises:
        InvalidRequestError: it cannot.
    """
    if not _NAME.fullmatch(name) or len(name) > limits.max_name_bytes:
        message = (
            f"{_quote(name)} is no name of a library; use 1 to {limits.max_name_bytes} of a-z, 0-9, '-' and '_', "
            "beginning with a letter or digit."
        )
        raise refuse(field, "LIBRARY_NAME_INVALID", message)
    return name


def check_hash(sha256: str, *, field: str) -> str:
    """Return an image's name if it can be one.

    Raises:
        InvalidRequestError: it cannot.
    """
    if not _HASH.fullmatch(sha256):
        message = f"{_quote(sha256)} is no SHA-256; send the 64 lower-case hexadecimal digits that the library gave."
        raise refuse(field, "HASH_INVALID", message)
    return sha256


def check_thumbnail_side(side_px: int, *, limits: LibraryLimits) -> int:
    """Return the side that a request for a library asks for.

    Raises:
        InvalidRequestError: it is too large.
    """
    if side_px > limits.max_thumbnail_side_px:
        message = f"Thumbnails of {side_px:,} pixels are too large; at most {limits.max_thumbnail_side_px} are allowed."
        raise refuse("thumbnail_side_px", "THUMBNAIL_TOO_LARGE", message)
    return side_px or min(_DEFAULT_THUMBNAIL_SIDE_PX, limits.max_thumbnail_side_px)


def check_page_size(size: int, *, limits: LibraryLimits) -> int:
    """Return the images of a page.

    Raises:
        InvalidRequestError: too many.
    """
    if size > limits.max_page_size:
        message = f"A page of {size:,} images is too long; at most {limits.max_page_size:,} are allowed."
        raise refuse("page_size", "PAGE_TOO_LONG", message)
    return size or _DEFAULT_PAGE_SIZE


def parse_parts(parts: library_pb2.ImageParts) -> Parts:
    """Return which large columns are wanted."""
    return Parts(thumbnail=parts.thumbnail, original=parts.original, embedding=parts.embedding)


def parse_filter(message: library_pb2.ImageFilter, *, field: str, limits: LibraryLimits) -> Filter:
    """Return a checked filter.

    Raises:
        InvalidRequestError: with one violation for every field that is wrong.
    """
    if violations := list(_filter_violations(message, field, limits)):
        raise InvalidRequestError(violations)
    return _filter(message)


def check_deletion(
    request: library_pb2.DeleteImagesRequest, *, limits: LibraryLimits
) -> tuple[Sequence[str], Filter | None]:
    """Return the hashes, or the filter, that say what to delete.

    Raises:
        InvalidRequestError: they name nothing, or everything.
    """
    hashes, where = check_selection(request, limits=limits)
    if where == Filter():
        message = "The filter has no condition, so it means every image; drop the library, or add a condition."
        raise refuse("filter", "FILTER_EMPTY", message)
    return hashes, where


def check_selection(
    request: library_pb2.DeleteImagesRequest | library_pb2.UpdateImagesRequest, *, limits: LibraryLimits
) -> tuple[Sequence[str], Filter | None]:
    """Return the hashes, or the filter, that say which images are meant.

    Raises:
        InvalidRequestError: they name nothing.
    """
    if request.WhichOneof("selection") == "filter":
        return (), parse_filter(request.filter, field="filter", limits=limits)
    hashes = request.hashes.sha256
    if not hashes:
        raise refuse("selection", "SELECTION_EMPTY", "Nothing says which images are meant; set hashes or filter.")
    if len(hashes) > limits.max_delete_hashes:
        message = f"{len(hashes):,} hashes are too many; at most {limits.max_delete_hashes:,} are allowed."
        raise refuse("hashes.sha256", "TOO_MANY_HASHES", message)
    return [check_hash(sha256, field=f"hashes.sha256[{index}]") for index, sha256 in enumerate(hashes)], None


def check_changes(changes: library_pb2.ImageChanges, *, limits: LibraryLimits) -> Changes:
    """Return what changes of images.

    Raises:
        InvalidRequestError: nothing does, or a field is wrong.
    """
    if changes == library_pb2.ImageChanges():
        raise refuse("changes", "CHANGES_EMPTY", "Nothing says what to change; set a field of changes.")
    violations = [
        *_source_violations(changes.source, "changes.source", limits),
        *_tag_violations(changes.add_tags, "changes.add_tags", limits),
        *_metadata_violations(changes.set_metadata, "changes.set_metadata", limits),
    ]
    if violations:
        raise InvalidRequestError(violations)
    return Changes(
        source=changes.source if changes.HasField("source") else None,
        clears_tags=changes.clear_tags,
        remove_tags=clean_tags(changes.remove_tags),
        add_tags=clean_tags(changes.add_tags),
        clears_metadata=changes.clear_metadata,
        remove_metadata=tuple(changes.remove_metadata),
        set_metadata=clean_metadata(changes.set_metadata),
    )


def apply_changes(changes: Changes, record: Record, *, field: str, limits: LibraryLimits) -> Record:
    """Return an image with changes.

    Raises:
        InvalidRequestError: it would have too many tags or values; `field` has the additions.
    """
    changed = changes.apply(record)
    name = f"Image {record.sha256[:_SHOWN_HASH]}…"
    if len(changed.tags) > max(limits.max_tags, len(record.tags)):
        message = f"{name} would have {len(changed.tags):,} tags; at most {limits.max_tags} are allowed."
        raise refuse(field, "TOO_MANY_TAGS", message)
    if len(changed.metadata) > max(limits.max_metadata, len(record.metadata)):
        message = (
            f"{name} would have {len(changed.metadata):,} metadata values; at most {limits.max_metadata} are allowed."
        )
        raise refuse(field, "TOO_MUCH_METADATA", message)
    return changed


def image_not_found(library: str, sha256: str) -> NotInLibraryError:
    """Return the error of an image that is not there."""
    message = f'Library "{library}" has no image {sha256}; it may have been deleted.'
    return NotInLibraryError("IMAGE_NOT_FOUND", message)


def check_new_image(image: library_pb2.NewImage, *, limits: LibraryLimits) -> Changes:
    """Check all of an image to add but its bytes; return what it says as changes of an image that is there.

    Raises:
        InvalidRequestError: with the first violation.
    """
    violations = (
        *_source_violations(image.source, "image.source", limits),
        *_tag_violations(image.tags, "image.tags", limits),
        *_metadata_violations(image.metadata, "image.metadata", limits),
    )
    if violations:
        raise InvalidRequestError(violations[:1])
    return Changes(
        source=image.source or None, add_tags=clean_tags(image.tags), set_metadata=clean_metadata(image.metadata)
    )


def clean_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return tags without repetitions, in one Unicode form (NFC): macOS writes é in file names as two characters."""
    return tuple(dict.fromkeys(unicodedata.normalize("NFC", tag) for tag in tags))


def clean_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return values in the Unicode form of tags; keys are ASCII."""
    return {key: unicodedata.normalize("NFC", value) for key, value in metadata.items()}


def refuse(field: str, reason: str, message: str) -> InvalidRequestError:
    """Return the error of one wrong field."""
    return InvalidRequestError([Violation(field=field, reason=reason, message=message)])


def _filter(message: library_pb2.ImageFilter) -> Filter:
    return Filter(
        all_tags=clean_tags(message.all_tags),
        any_tags=clean_tags(message.any_tags),
        metadata=clean_metadata(message.metadata) or None,
        added_from_us=message.added_from.ToMicroseconds() if message.HasField("added_from") else None,
        added_before_us=message.added_before.ToMicroseconds() if message.HasField("added_before") else None,
        source_prefix=message.source_prefix,
    )


def _filter_violations(message: library_pb2.ImageFilter, path: str, limits: LibraryLimits) -> Iterator[Violation]:
    yield from _tag_violations(message.all_tags, f"{path}.all_tags", limits)
    yield from _tag_violations(message.any_tags, f"{path}.any_tags", limits)
    yield from _metadata_violations(message.metadata, f"{path}.metadata", limits)
    yield from _source_violations(message.source_prefix, f"{path}.source_prefix", limits)
    for name in ("added_from", "added_before"):
        if message.HasField(name) and not _is_time(getattr(message, name)):
            text = f"{name} is no time between the years 1 and 9999 with less than a second of nanoseconds."
            yield Violation(field=f"{path}.{name}", reason="TIME_INVALID", message=text)


def _is_time(message: Timestamp) -> bool:
    try:
        message.ToDatetime()
    except (ValueError, OverflowError):
        return False
    return True


def _source_violations(source: str, path: str, limits: LibraryLimits) -> Iterator[Violation]:
    if (size := len(source.encode())) > limits.max_source_bytes:
        message = f"A source of {size:,} bytes is too long; at most {limits.max_source_bytes:,} are allowed."
        yield Violation(field=path, reason="SOURCE_TOO_LONG", message=message)


def _tag_violations(tags: Sequence[str], path: str, limits: LibraryLimits) -> Iterator[Violation]:
    if len(tags) > limits.max_tags:
        message = f"{len(tags):,} tags are too many; at most {limits.max_tags} are allowed."
        yield Violation(field=path, reason="TOO_MANY_TAGS", message=message)
        return
    for index, tag in enumerate(tags):
        if not tag.strip() or len(tag.encode()) > limits.max_tag_bytes:
            message = f"Tag {index} ({_quote(tag)}) must have 1 to {limits.max_tag_bytes} bytes and not be blank."
            yield Violation(field=f"{path}[{index}]", reason="TAG_INVALID", message=message)


def _metadata_violations(metadata: Mapping[str, str], path: str, limits: LibraryLimits) -> Iterator[Violation]:
    if len(metadata) > limits.max_metadata:
        message = f"{len(metadata):,} metadata values are too many; at most {limits.max_metadata} are allowed."
        yield Violation(field=path, reason="TOO_MUCH_METADATA", message=message)
        return
    for key, value in metadata.items():
        if not _KEY.fullmatch(key):
            message = f"{_quote(key)} is no key of metadata; use 1 to 64 of A-Z, a-z, 0-9, '_', '-' and '.'."
            yield Violation(field=path, reason="METADATA_KEY_INVALID", message=message)
        elif (size := len(value.encode())) > limits.max_metadata_value_bytes:
            message = (
                f"The metadata value of {_quote(key)} has {size:,} bytes; at most "
                f"{limits.max_metadata_value_bytes:,} are allowed."
            )
            yield Violation(field=f"{path}[{key}]", reason="METADATA_VALUE_TOO_LONG", message=message)


def _quote(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return f'"{shown}"'
