from clipsr.v1 import types_pb2 as _types_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmbedImagesRequest(_message.Message):
    __slots__ = ("images", "fit", "route", "encoder")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[_types_pb2.Image]
    fit: _types_pb2.Fit
    route: _types_pb2.Route
    encoder: _types_pb2.Encoder
    def __init__(self, images: _Optional[_Iterable[_Union[_types_pb2.Image, _Mapping]]] = ..., fit: _Optional[_Union[_types_pb2.Fit, str]] = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., encoder: _Optional[_Union[_types_pb2.Encoder, str]] = ...) -> None: ...

class EmbedImagesResponse(_message.Message):
    __slots__ = ("results", "model_digest")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[EmbedImageResult]
    model_digest: str
    def __init__(self, results: _Optional[_Iterable[_Union[EmbedImageResult, _Mapping]]] = ..., model_digest: _Optional[str] = ...) -> None: ...

class EmbedImageResult(_message.Message):
    __slots__ = ("embedding", "error")
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    embedding: ImageEmbedding
    error: _status_pb2.Status
    def __init__(self, embedding: _Optional[_Union[ImageEmbedding, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ImageEmbedding(_message.Message):
    __slots__ = ("values", "input_size", "route", "timing", "encoder", "degradations")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    INPUT_SIZE_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    DEGRADATIONS_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    input_size: _types_pb2.Size
    route: _types_pb2.Route
    timing: _types_pb2.Timing
    encoder: _types_pb2.Encoder
    degradations: _containers.RepeatedCompositeFieldContainer[_types_pb2.Degradation]
    def __init__(self, values: _Optional[_Iterable[float]] = ..., input_size: _Optional[_Union[_types_pb2.Size, _Mapping]] = ..., route: _Optional[_Union[_types_pb2.Route, str]] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ..., encoder: _Optional[_Union[_types_pb2.Encoder, str]] = ..., degradations: _Optional[_Iterable[_Union[_types_pb2.Degradation, _Mapping]]] = ...) -> None: ...

class EmbedTextsRequest(_message.Message):
    __slots__ = ("texts", "templates")
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    texts: _containers.RepeatedScalarFieldContainer[str]
    templates: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, texts: _Optional[_Iterable[str]] = ..., templates: _Optional[_Iterable[str]] = ...) -> None: ...

class EmbedTextsResponse(_message.Message):
    __slots__ = ("embeddings", "model_digest", "warnings")
    EMBEDDINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    embeddings: _containers.RepeatedCompositeFieldContainer[TextEmbedding]
    model_digest: str
    warnings: _containers.RepeatedCompositeFieldContainer[_types_pb2.Warning]
    def __init__(self, embeddings: _Optional[_Iterable[_Union[TextEmbedding, _Mapping]]] = ..., model_digest: _Optional[str] = ..., warnings: _Optional[_Iterable[_Union[_types_pb2.Warning, _Mapping]]] = ...) -> None: ...

class TextEmbedding(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...
