"""What libraries take and return, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from clipsr._types import AnswerWarning, FailedImage, ImageSource, RouteTaken


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryInfo:
    """A library, as it was when the service was asked.

    Attributes:
        name: its name.
        model_digest: of the model that embedded its images, as ModelInfo.digest.
        embed_dim: width of its embeddings.
        image_count: images in it.
        original_count: images in it whose files are kept.
        size_bytes: what it takes on disk, old versions and deleted images that were not cleaned up yet included; in an
            object store what the newest version takes.
        keep_originals: whether files of images are kept.
        thumbnail_side_px: longest side of its thumbnails; smaller images are kept as they are.
        create_time: when it was created, in UTC.
        needs_reembedding: its model is not the one that is served: it cannot be searched or added to before reembed().
        is_indexed: whether an approximate index answers searches; otherwise all vectors are compared.
        indexed_count: images that the index covers; the others are compared one by one, so none is missed.
        damage: why it cannot be used, for people; then only its name is known besides. Empty for one in order.
    """

    name: str
    model_digest: str
    embed_dim: int
    image_count: int
    original_count: int
    size_bytes: int
    keep_originals: bool
    thumbnail_side_px: int
    create_time: datetime
    needs_reembedding: bool
    is_indexed: bool
    indexed_count: int
    damage: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewImage:
    """An image to add, with what the caller knows about it.

    Attributes:
        content: the image file: bytes, a path, or an open binary file.
        source: the caller's own id, or where the image came from; need not be unique.
        tags: words to filter by.
        metadata: values by key; keys hold letters, digits, "_", "-" and ".".
    """

    content: ImageSource
    source: str = ""
    tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True, slots=True)
class AddedImage:
    """An image that is in the library now, for good.

    Attributes:
        sha256: of its bytes, lower-case hexadecimal: its name within the library.
        size_hw: rows and columns, after EXIF orientation, in pixels.
        route: the path taken to the image encoder.
        has_original: whether its file is kept.
        queue_ms: waiting in the gateway before it was embedded.
        inference_ms: from the gateway to Triton and back.
    """

    sha256: str
    size_hw: tuple[int, int]
    route: RouteTaken
    has_original: bool
    queue_ms: float
    inference_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PresentImage:
    """An image whose bytes the library had already; it keeps its time, and what was said of it unless that was updated.

    Attributes:
        sha256: of its bytes, lower-case hexadecimal.
        differs: it lacks a tag or value that it was added with now, or has another source, and stays like that.
        updated: it has taken the source, tags and values that it was added with now.
    """

    sha256: str
    differs: bool = False
    updated: bool = False


AddOutcome = tuple[int, AddedImage | PresentImage | FailedImage]
"""The image's place among the images, from 0, and what became of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredImage:
    """An image of a library.

    Attributes:
        sha256: of its bytes, lower-case hexadecimal: its name within the library.
        source: the caller's own id, or where the image came from.
        tags: words to filter by, in the order of the caller.
        metadata: values by key.
        size_hw: rows and columns, after EXIF orientation, in pixels.
        size_bytes: of its file.
        media_type: what kind of file it is, such as "image/png".
        add_time: when it was added, in UTC.
        model_digest: of the model that embedded it.
        route: the path taken to the image encoder.
        has_original: whether its file is kept.
        thumbnail: a WebP file of the whole image, reduced; None unless asked for.
        original: the file as it was sent; None unless asked for and kept.
        embedding: L2-normalized; None unless asked for.
    """

    sha256: str
    source: str
    tags: tuple[str, ...]
    metadata: Mapping[str, str]
    size_hw: tuple[int, int]
    size_bytes: int
    media_type: str
    add_time: datetime
    model_digest: str
    route: RouteTaken
    has_original: bool
    thumbnail: bytes | None = None
    original: bytes | None = None
    embedding: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFilter:
    """Lets images through that fulfil all of its conditions; an empty one lets all of them through.

    Attributes:
        all_tags: tags that an image must all have.
        any_tags: tags of which an image must have at least one.
        metadata: values that an image's metadata must have, exactly.
        added_from: earliest time at which an image was added, included; with its time zone.
        added_before: latest time, not included; with its time zone.
        source_prefix: what an image's source must begin with.
    """

    all_tags: Sequence[str] = ()
    any_tags: Sequence[str] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    added_from: datetime | None = None
    added_before: datetime | None = None
    source_prefix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageChanges:
    """What changes of images that are kept. Removals come first: clearing and adding together replace what there was.

    Attributes:
        source: the new source; None leaves the old one.
        add_tags: tags to add, where an image does not have them.
        remove_tags: tags to remove, where an image has them.
        clear_tags: removes all tags.
        set_metadata: values by key.
        remove_metadata: keys of values to remove.
        clear_metadata: removes all values.
    """

    source: str | None = None
    add_tags: Sequence[str] = ()
    remove_tags: Sequence[str] = ()
    clear_tags: bool = False
    set_metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    remove_metadata: Sequence[str] = ()
    clear_metadata: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateResult:
    """What a change of images did.

    Attributes:
        matched_count: images that were meant and that the library has.
        changed_count: of these, images that are no longer as they were.
    """

    matched_count: int
    changed_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchHit:
    """An image that was found.

    Attributes:
        image: the image.
        cosine: of its embedding and the query's, in [-1, 1].
    """

    image: StoredImage
    cosine: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        hits: best first.
        warnings: what the caller should know about the query.
        queue_ms: waiting in the gateway before the query was embedded; 0 for an image of the library.
        inference_ms: embedding the query; 0 for an image of the library.
        search_ms: what the library took to find the images.
        model_digest: of the model that answered.
    """

    hits: tuple[SearchHit, ...]
    warnings: tuple[AnswerWarning, ...]
    queue_ms: float
    inference_ms: float
    search_ms: float
    model_digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagePage:
    """Some of the images of a library, in the order of their time.

    Attributes:
        images: the images.
        next_page_token: asks for the page that follows; empty after the last one.
        total_count: images on all pages, as of now.
    """

    images: tuple[StoredImage, ...]
    next_page_token: str
    total_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ReembedProgress:
    """How far the embedding of a library with another model is.

    Attributes:
        done_count: images that have an embedding of the model that is served.
        total_count: images that will be in the library.
        dropped_count: images that left the library, for their files were not kept or cannot be read.
        library: the library as it is now; None before the last one.
    """

    done_count: int
    total_count: int
    dropped_count: int
    library: LibraryInfo | None = None
