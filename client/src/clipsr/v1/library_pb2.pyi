from clipsr.v1 import types_pb2 as _types_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Library(_message.Message):
    __slots__ = ("name", "model_digest", "embed_dim", "image_count", "original_count", "size_bytes", "keep_originals", "thumbnail_side_px", "create_time", "needs_reembedding", "is_indexed", "indexed_count", "damage")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EMBED_DIM_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEEP_ORIGINALS_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_SIDE_PX_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    NEEDS_REEMBEDDING_FIELD_NUMBER: _ClassVar[int]
    IS_INDEXED_FIELD_NUMBER: _ClassVar[int]
    INDEXED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DAMAGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    model_digest: str
    embed_dim: int
    image_count: int
    original_count: int
    size_bytes: int
    keep_originals: bool
    thumbnail_side_px: int
    create_time: _timestamp_pb2.Timestamp
    needs_reembedding: bool
    is_indexed: bool
    indexed_count: int
    damage: str
    def __init__(self, name: _Optional[str] = ..., model_digest: _Optional[str] = ..., embed_dim: _Optional[int] = ..., image_count: _Optional[int] = ..., original_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., keep_originals: bool = ..., thumbnail_side_px: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., needs_reembedding: bool = ..., is_indexed: bool = ..., indexed_count: _Optional[int] = ..., damage: _Optional[str] = ...) -> None: ...

class CreateLibraryRequest(_message.Message):
    __slots__ = ("name", "discard_originals", "thumbnail_side_px")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DISCARD_ORIGINALS_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_SIDE_PX_FIELD_NUMBER: _ClassVar[int]
    name: str
    discard_originals: bool
    thumbnail_side_px: int
    def __init__(self, name: _Optional[str] = ..., discard_originals: bool = ..., thumbnail_side_px: _Optional[int] = ...) -> None: ...

class CreateLibraryResponse(_message.Message):
    __slots__ = ("library",)
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    library: Library
    def __init__(self, library: _Optional[_Union[Library, _Mapping]] = ...) -> None: ...

class DropLibraryRequest(_message.Message):
    __slots__ = ("library",)
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    library: str
    def __init__(self, library: _Optional[str] = ...) -> None: ...

class DropLibraryResponse(_message.Message):
    __slots__ = ("image_count",)
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    image_count: int
    def __init__(self, image_count: _Optional[int] = ...) -> None: ...

class ListLibrariesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListLibrariesResponse(_message.Message):
    __slots__ = ("libraries", "model_digest")
    LIBRARIES_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    libraries: _containers.RepeatedCompositeFieldContainer[Library]
    model_digest: str
    def __init__(self, libraries: _Optional[_Iterable[_Union[Library, _Mapping]]] = ..., model_digest: _Optional[str] = ...) -> None: ...

class AddImagesRequest(_message.Message):
    __slots__ = ("options", "image")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    options: AddImagesOptions
    image: NewImage
    def __init__(self, options: _Optional[_Union[AddImagesOptions, _Mapping]] = ..., image: _Optional[_Union[NewImage, _Mapping]] = ...) -> None: ...

class AddImagesOptions(_message.Message):
    __slots__ = ("library", "fit", "route", "update_present")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    UPDATE_PRESENT_FIELD_NUMBER: _ClassVar[int]
    library: str
    fit: _types_pb2.Fit
    route: _types_pb2.Route
    update_present: bool
    def __init__(self, library: _Optional[str] = ..., fit: _Optional[_Union[_types_pb2.Fit, str]] = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., update_present: bool = ...) -> None: ...

class NewImage(_message.Message):
    __slots__ = ("index", "image", "source", "tags", "metadata")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INDEX_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    index: int
    image: _types_pb2.Image
    source: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    metadata: _containers.ScalarMap[str, str]
    def __init__(self, index: _Optional[int] = ..., image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ..., source: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class AddImagesResponse(_message.Message):
    __slots__ = ("index", "added", "already_present", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ADDED_FIELD_NUMBER: _ClassVar[int]
    ALREADY_PRESENT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    added: AddedImage
    already_present: PresentImage
    error: _status_pb2.Status
    def __init__(self, index: _Optional[int] = ..., added: _Optional[_Union[AddedImage, _Mapping]] = ..., already_present: _Optional[_Union[PresentImage, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class AddedImage(_message.Message):
    __slots__ = ("sha256", "size", "route", "has_original", "timing")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    HAS_ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size: _types_pb2.Size
    route: _types_pb2.Route
    has_original: bool
    timing: _types_pb2.Timing
    def __init__(self, sha256: _Optional[str] = ..., size: _Optional[_Union[_types_pb2.Size, _Mapping]] = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., has_original: bool = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ...) -> None: ...

class PresentImage(_message.Message):
    __slots__ = ("sha256", "differs", "updated")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    DIFFERS_FIELD_NUMBER: _ClassVar[int]
    UPDATED_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    differs: bool
    updated: bool
    def __init__(self, sha256: _Optional[str] = ..., differs: bool = ..., updated: bool = ...) -> None: ...

class StoredImage(_message.Message):
    __slots__ = ("sha256", "source", "tags", "metadata", "size", "size_bytes", "media_type", "add_time", "model_digest", "route", "has_original", "thumbnail", "original", "embedding")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    ADD_TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    HAS_ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    source: str
    tags: _containers.RepeatedScalarFieldContainer[str]
    metadata: _containers.ScalarMap[str, str]
    size: _types_pb2.Size
    size_bytes: int
    media_type: str
    add_time: _timestamp_pb2.Timestamp
    model_digest: str
    route: _types_pb2.Route
    has_original: bool
    thumbnail: bytes
    original: bytes
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, sha256: _Optional[str] = ..., source: _Optional[str] = ..., tags: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., size: _Optional[_Union[_types_pb2.Size, _Mapping]] = ..., size_bytes: _Optional[int] = ..., media_type: _Optional[str] = ..., add_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., model_digest: _Optional[str] = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., has_original: bool = ..., thumbnail: _Optional[bytes] = ..., original: _Optional[bytes] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class ImageParts(_message.Message):
    __slots__ = ("thumbnail", "original", "embedding")
    THUMBNAIL_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    thumbnail: bool
    original: bool
    embedding: bool
    def __init__(self, thumbnail: bool = ..., original: bool = ..., embedding: bool = ...) -> None: ...

class ImageFilter(_message.Message):
    __slots__ = ("all_tags", "any_tags", "metadata", "added_from", "added_before", "source_prefix")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ALL_TAGS_FIELD_NUMBER: _ClassVar[int]
    ANY_TAGS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    ADDED_FROM_FIELD_NUMBER: _ClassVar[int]
    ADDED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    all_tags: _containers.RepeatedScalarFieldContainer[str]
    any_tags: _containers.RepeatedScalarFieldContainer[str]
    metadata: _containers.ScalarMap[str, str]
    added_from: _timestamp_pb2.Timestamp
    added_before: _timestamp_pb2.Timestamp
    source_prefix: str
    def __init__(self, all_tags: _Optional[_Iterable[str]] = ..., any_tags: _Optional[_Iterable[str]] = ..., metadata: _Optional[_Mapping[str, str]] = ..., added_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., added_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., source_prefix: _Optional[str] = ...) -> None: ...

class SearchHit(_message.Message):
    __slots__ = ("image", "cosine")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    image: StoredImage
    cosine: float
    def __init__(self, image: _Optional[_Union[StoredImage, _Mapping]] = ..., cosine: _Optional[float] = ...) -> None: ...

class SearchByTextRequest(_message.Message):
    __slots__ = ("library", "text", "templates", "options")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    library: str
    text: str
    templates: _containers.RepeatedScalarFieldContainer[str]
    options: SearchOptions
    def __init__(self, library: _Optional[str] = ..., text: _Optional[str] = ..., templates: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ...) -> None: ...

class SearchOptions(_message.Message):
    __slots__ = ("top_k", "filter", "parts", "min_cosine", "is_exact")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    MIN_COSINE_FIELD_NUMBER: _ClassVar[int]
    IS_EXACT_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    filter: ImageFilter
    parts: ImageParts
    min_cosine: float
    is_exact: bool
    def __init__(self, top_k: _Optional[int] = ..., filter: _Optional[_Union[ImageFilter, _Mapping]] = ..., parts: _Optional[_Union[ImageParts, _Mapping]] = ..., min_cosine: _Optional[float] = ..., is_exact: bool = ...) -> None: ...

class SearchByTextResponse(_message.Message):
    __slots__ = ("hits", "warnings", "timing", "search_ms", "model_digest")
    HITS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[SearchHit]
    warnings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Warning]
    timing: _types_pb2.Timing
    search_ms: float
    model_digest: str
    def __init__(self, hits: _Optional[_Iterable[_Union[SearchHit, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[_types_pb2.Warning, _Mapping]]] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ..., search_ms: _Optional[float] = ..., model_digest: _Optional[str] = ...) -> None: ...

class SearchByImageRequest(_message.Message):
    __slots__ = ("library", "image", "sha256", "fit", "route", "options", "exclude_query")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_QUERY_FIELD_NUMBER: _ClassVar[int]
    library: str
    image: _types_pb2.Image
    sha256: str
    fit: _types_pb2.Fit
    route: _types_pb2.Route
    options: SearchOptions
    exclude_query: bool
    def __init__(self, library: _Optional[str] = ..., image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ..., sha256: _Optional[str] = ..., fit: _Optional[_Union[_types_pb2.Fit, str]] = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ..., exclude_query: bool = ...) -> None: ...

class SearchByImageResponse(_message.Message):
    __slots__ = ("hits", "timing", "search_ms", "model_digest")
    HITS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    hits: _containers.RepeatedCompositeFieldContainer[SearchHit]
    timing: _types_pb2.Timing
    search_ms: float
    model_digest: str
    def __init__(self, hits: _Optional[_Iterable[_Union[SearchHit, _Mapping]]] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ..., search_ms: _Optional[float] = ..., model_digest: _Optional[str] = ...) -> None: ...

class ListImagesRequest(_message.Message):
    __slots__ = ("library", "page_size", "page_token", "filter", "parts", "newest_first")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIRST_FIELD_NUMBER: _ClassVar[int]
    library: str
    page_size: int
    page_token: str
    filter: ImageFilter
    parts: ImageParts
    newest_first: bool
    def __init__(self, library: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[_Union[ImageFilter, _Mapping]] = ..., parts: _Optional[_Union[ImageParts, _Mapping]] = ..., newest_first: bool = ...) -> None: ...

class ListImagesResponse(_message.Message):
    __slots__ = ("images", "next_page_token", "total_count")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[StoredImage]
    next_page_token: str
    total_count: int
    def __init__(self, images: _Optional[_Iterable[_Union[StoredImage, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_count: _Optional[int] = ...) -> None: ...

class GetImageRequest(_message.Message):
    __slots__ = ("library", "sha256", "parts")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    library: str
    sha256: str
    parts: ImageParts
    def __init__(self, library: _Optional[str] = ..., sha256: _Optional[str] = ..., parts: _Optional[_Union[ImageParts, _Mapping]] = ...) -> None: ...

class GetImageResponse(_message.Message):
    __slots__ = ("image",)
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    image: StoredImage
    def __init__(self, image: _Optional[_Union[StoredImage, _Mapping]] = ...) -> None: ...

class UpdateImagesRequest(_message.Message):
    __slots__ = ("library", "hashes", "filter", "changes")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    library: str
    hashes: ImageHashes
    filter: ImageFilter
    changes: ImageChanges
    def __init__(self, library: _Optional[str] = ..., hashes: _Optional[_Union[ImageHashes, _Mapping]] = ..., filter: _Optional[_Union[ImageFilter, _Mapping]] = ..., changes: _Optional[_Union[ImageChanges, _Mapping]] = ...) -> None: ...

class ImageChanges(_message.Message):
    __slots__ = ("source", "clear_tags", "remove_tags", "add_tags", "clear_metadata", "remove_metadata", "set_metadata")
    class SetMetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CLEAR_TAGS_FIELD_NUMBER: _ClassVar[int]
    REMOVE_TAGS_FIELD_NUMBER: _ClassVar[int]
    ADD_TAGS_FIELD_NUMBER: _ClassVar[int]
    CLEAR_METADATA_FIELD_NUMBER: _ClassVar[int]
    REMOVE_METADATA_FIELD_NUMBER: _ClassVar[int]
    SET_METADATA_FIELD_NUMBER: _ClassVar[int]
    source: str
    clear_tags: bool
    remove_tags: _containers.RepeatedScalarFieldContainer[str]
    add_tags: _containers.RepeatedScalarFieldContainer[str]
    clear_metadata: bool
    remove_metadata: _containers.RepeatedScalarFieldContainer[str]
    set_metadata: _containers.ScalarMap[str, str]
    def __init__(self, source: _Optional[str] = ..., clear_tags: bool = ..., remove_tags: _Optional[_Iterable[str]] = ..., add_tags: _Optional[_Iterable[str]] = ..., clear_metadata: bool = ..., remove_metadata: _Optional[_Iterable[str]] = ..., set_metadata: _Optional[_Mapping[str, str]] = ...) -> None: ...

class UpdateImagesResponse(_message.Message):
    __slots__ = ("matched_count", "changed_count")
    MATCHED_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHANGED_COUNT_FIELD_NUMBER: _ClassVar[int]
    matched_count: int
    changed_count: int
    def __init__(self, matched_count: _Optional[int] = ..., changed_count: _Optional[int] = ...) -> None: ...

class DeleteImagesRequest(_message.Message):
    __slots__ = ("library", "hashes", "filter")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    library: str
    hashes: ImageHashes
    filter: ImageFilter
    def __init__(self, library: _Optional[str] = ..., hashes: _Optional[_Union[ImageHashes, _Mapping]] = ..., filter: _Optional[_Union[ImageFilter, _Mapping]] = ...) -> None: ...

class ImageHashes(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sha256: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteImagesResponse(_message.Message):
    __slots__ = ("deleted_count",)
    DELETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    deleted_count: int
    def __init__(self, deleted_count: _Optional[int] = ...) -> None: ...

class ReembedLibraryRequest(_message.Message):
    __slots__ = ("library", "drop_without_original")
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    DROP_WITHOUT_ORIGINAL_FIELD_NUMBER: _ClassVar[int]
    library: str
    drop_without_original: bool
    def __init__(self, library: _Optional[str] = ..., drop_without_original: bool = ...) -> None: ...

class ReembedLibraryResponse(_message.Message):
    __slots__ = ("done_count", "total_count", "dropped_count", "library")
    DONE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_COUNT_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    done_count: int
    total_count: int
    dropped_count: int
    library: Library
    def __init__(self, done_count: _Optional[int] = ..., total_count: _Optional[int] = ..., dropped_count: _Optional[int] = ..., library: _Optional[_Union[Library, _Mapping]] = ...) -> None: ...
