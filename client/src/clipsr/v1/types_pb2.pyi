from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIT_UNSPECIFIED: _ClassVar[Fit]
    FIT_CENTER_CROP: _ClassVar[Fit]
    FIT_SQUASH: _ClassVar[Fit]

class Route(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROUTE_UNSPECIFIED: _ClassVar[Route]
    ROUTE_UPSCALED: _ClassVar[Route]
    ROUTE_NATIVE: _ClassVar[Route]

class Encoder(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENCODER_UNSPECIFIED: _ClassVar[Encoder]
    ENCODER_PLAIN: _ClassVar[Encoder]
    ENCODER_ROBUST: _ClassVar[Encoder]

class UpscaleRecipe(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UPSCALE_RECIPE_UNSPECIFIED: _ClassVar[UpscaleRecipe]
    UPSCALE_RECIPE_CLEAN: _ClassVar[UpscaleRecipe]
    UPSCALE_RECIPE_ROBUST: _ClassVar[UpscaleRecipe]
FIT_UNSPECIFIED: Fit
FIT_CENTER_CROP: Fit
FIT_SQUASH: Fit
ROUTE_UNSPECIFIED: Route
ROUTE_UPSCALED: Route
ROUTE_NATIVE: Route
ENCODER_UNSPECIFIED: Encoder
ENCODER_PLAIN: Encoder
ENCODER_ROBUST: Encoder
UPSCALE_RECIPE_UNSPECIFIED: UpscaleRecipe
UPSCALE_RECIPE_CLEAN: UpscaleRecipe
UPSCALE_RECIPE_ROBUST: UpscaleRecipe

class Image(_message.Message):
    __slots__ = ("content",)
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    def __init__(self, content: _Optional[bytes] = ...) -> None: ...

class LabelSpace(_message.Message):
    __slots__ = ("labels", "label_set", "templates")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LABEL_SET_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[str]
    label_set: str
    templates: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, labels: _Optional[_Iterable[str]] = ..., label_set: _Optional[str] = ..., templates: _Optional[_Iterable[str]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("label", "cosine", "probability")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    label: str
    cosine: float
    probability: float
    def __init__(self, label: _Optional[str] = ..., cosine: _Optional[float] = ..., probability: _Optional[float] = ...) -> None: ...

class Degradation(_message.Message):
    __slots__ = ("kind", "cosine", "probability")
    KIND_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    kind: str
    cosine: float
    probability: float
    def __init__(self, kind: _Optional[str] = ..., cosine: _Optional[float] = ..., probability: _Optional[float] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("reason", "message", "field")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    field: str
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., field: _Optional[str] = ...) -> None: ...

class Size(_message.Message):
    __slots__ = ("height", "width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("queue_ms", "inference_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    inference_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., inference_ms: _Optional[float] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_images", "max_image_bytes", "max_image_pixels", "max_labels", "max_label_bytes", "max_templates", "max_texts", "max_message_bytes", "max_output_pixels", "max_embed_texts", "max_stream_images", "caller", "library", "max_restore_pixels")
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_LABELS_FIELD_NUMBER: _ClassVar[int]
    MAX_LABEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXTS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_EMBED_TEXTS_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_IMAGES_FIELD_NUMBER: _ClassVar[int]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_FIELD_NUMBER: _ClassVar[int]
    MAX_RESTORE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    max_images: int
    max_image_bytes: int
    max_image_pixels: int
    max_labels: int
    max_label_bytes: int
    max_templates: int
    max_texts: int
    max_message_bytes: int
    max_output_pixels: int
    max_embed_texts: int
    max_stream_images: int
    caller: CallerLimits
    library: LibraryLimits
    max_restore_pixels: int
    def __init__(self, max_images: _Optional[int] = ..., max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_labels: _Optional[int] = ..., max_label_bytes: _Optional[int] = ..., max_templates: _Optional[int] = ..., max_texts: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_output_pixels: _Optional[int] = ..., max_embed_texts: _Optional[int] = ..., max_stream_images: _Optional[int] = ..., caller: _Optional[_Union[CallerLimits, _Mapping]] = ..., library: _Optional[_Union[LibraryLimits, _Mapping]] = ..., max_restore_pixels: _Optional[int] = ...) -> None: ...

class LibraryLimits(_message.Message):
    __slots__ = ("max_libraries", "max_name_bytes", "max_top_k", "max_page_size", "max_source_bytes", "max_tags", "max_tag_bytes", "max_metadata", "max_metadata_value_bytes", "max_thumbnail_side_px", "max_original_bytes", "max_delete_hashes")
    MAX_LIBRARIES_FIELD_NUMBER: _ClassVar[int]
    MAX_NAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_SOURCE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_TAGS_FIELD_NUMBER: _ClassVar[int]
    MAX_TAG_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_METADATA_FIELD_NUMBER: _ClassVar[int]
    MAX_METADATA_VALUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_THUMBNAIL_SIDE_PX_FIELD_NUMBER: _ClassVar[int]
    MAX_ORIGINAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_DELETE_HASHES_FIELD_NUMBER: _ClassVar[int]
    max_libraries: int
    max_name_bytes: int
    max_top_k: int
    max_page_size: int
    max_source_bytes: int
    max_tags: int
    max_tag_bytes: int
    max_metadata: int
    max_metadata_value_bytes: int
    max_thumbnail_side_px: int
    max_original_bytes: int
    max_delete_hashes: int
    def __init__(self, max_libraries: _Optional[int] = ..., max_name_bytes: _Optional[int] = ..., max_top_k: _Optional[int] = ..., max_page_size: _Optional[int] = ..., max_source_bytes: _Optional[int] = ..., max_tags: _Optional[int] = ..., max_tag_bytes: _Optional[int] = ..., max_metadata: _Optional[int] = ..., max_metadata_value_bytes: _Optional[int] = ..., max_thumbnail_side_px: _Optional[int] = ..., max_original_bytes: _Optional[int] = ..., max_delete_hashes: _Optional[int] = ...) -> None: ...

class CallerLimits(_message.Message):
    __slots__ = ("items_per_second", "burst", "max_concurrent_calls")
    ITEMS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_CALLS_FIELD_NUMBER: _ClassVar[int]
    items_per_second: float
    burst: int
    max_concurrent_calls: int
    def __init__(self, items_per_second: _Optional[float] = ..., burst: _Optional[int] = ..., max_concurrent_calls: _Optional[int] = ...) -> None: ...

class Artifact(_message.Message):
    __slots__ = ("path", "sha256", "size_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: str
    size_bytes: int
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...
