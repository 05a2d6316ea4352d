from clipsr.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_WEBP: _ClassVar[ImageFormat]
    IMAGE_FORMAT_TIFF: _ClassVar[ImageFormat]
    IMAGE_FORMAT_BMP: _ClassVar[ImageFormat]
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat
IMAGE_FORMAT_WEBP: ImageFormat
IMAGE_FORMAT_TIFF: ImageFormat
IMAGE_FORMAT_BMP: ImageFormat

class UpscaleRequest(_message.Message):
    __slots__ = ("image", "scale", "size", "format", "recipe")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    image: _types_pb2.Image
    scale: float
    size: _types_pb2.Size
    format: ImageFormat
    recipe: _types_pb2.UpscaleRecipe
    def __init__(self, image: _Optional[_Union[_types_pb2.Image, _Mapping]] = ..., scale: _Optional[float] = ..., size: _Optional[_Union[_types_pb2.Size, _Mapping]] = ..., format: _Optional[_Union[ImageFormat, str]] = ..., recipe: _Optional[_Union[_types_pb2.UpscaleRecipe, str]] = ...) -> None: ...

class UpscaleResponse(_message.Message):
    __slots__ = ("content", "format", "input_size", "output_size", "timing", "model_digest")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    INPUT_SIZE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SIZE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    format: ImageFormat
    input_size: _types_pb2.Size
    output_size: _types_pb2.Size
    timing: _types_pb2.Timing
    model_digest: str
    def __init__(self, content: _Optional[bytes] = ..., format: _Optional[_Union[ImageFormat, str]] = ..., input_size: _Optional[_Union[_types_pb2.Size, _Mapping]] = ..., output_size: _Optional[_Union[_types_pb2.Size, _Mapping]] = ..., timing: _Optional[_Union[_types_pb2.Timing, _Mapping]] = ..., model_digest: _Optional[str] = ...) -> None: ...
