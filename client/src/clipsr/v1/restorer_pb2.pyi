from clipsr.v1 import types_pb2 as _types_pb2
from clipsr.v1 import upscaler_pb2 as _upscaler_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RestoreRequest(_message.Message):
    __slots__ = ("image", "remove", "steps", "seed", "force", "format")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    image: _types_pb2.Image
    remove: _containers.RepeatedScalarFieldContainer[str]
    steps: int
    seed: int
    force: bool
    format: _upscaler_pb2.ImageFormat
    def __init__(self, image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ..., remove: _Optional[_Iterable[str]] = ..., steps: _Optional[int] = ..., seed: _Optional[int] = ..., force: bool = ..., format: _Optional[_Union[_upscaler_pb2.ImageFormat, str]] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("content", "format", "size", "removed", "steps", "unchanged", "timing", "model_digest")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    format: _upscaler_pb2.ImageFormat
    size: _types_pb2.Size
    removed: _containers.RepeatedScalarFieldContainer[str]
    steps: int
    unchanged: bool
    timing: _types_pb2.Timing
    model_digest: str
    def __init__(self, content: _Optional[bytes] = ..., format: _Optional[_Union[_upscaler_pb2.ImageFormat, str]] = ..., size: _Optional[_Union[_types_pb2.Size, _Mapping]] = ..., removed: _Optional[_Iterable[str]] = ..., steps: _Optional[int] = ..., unchanged: bool = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ..., model_digest: _Optional[str] = ...) -> None: ...
