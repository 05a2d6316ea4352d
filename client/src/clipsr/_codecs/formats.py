"""Kinds of files that calls return pictures in, and what a request with an image may weigh."""

from __future__ import annotations

from typing import get_args

from google.protobuf.message import Message

from clipsr._codecs.arguments import invalid, show
from clipsr._codecs.classify import MAX_MESSAGE_BYTES, unreadable
from clipsr._picture_types import UpscaleFormat
from clipsr.v1 import upscaler_pb2

_FORMATS: dict[str, upscaler_pb2.ImageFormat] = {
    "png": upscaler_pb2.IMAGE_FORMAT_PNG,
    "jpeg": upscaler_pb2.IMAGE_FORMAT_JPEG,
    "webp": upscaler_pb2.IMAGE_FORMAT_WEBP,
    "tiff": upscaler_pb2.IMAGE_FORMAT_TIFF,
    "bmp": upscaler_pb2.IMAGE_FORMAT_BMP,
}
_FORMAT_NAMES: dict[int, UpscaleFormat] = {
    _FORMATS[name]: name
    for name in get_args(UpscaleFormat)  # a format that is declared and not listed above fails at import
}


def encode_format(output_format: UpscaleFormat) -> upscaler_pb2.ImageFormat:
    """Return the number of a format.

    Raises:
        InvalidRequestError: it is not known.
    """
    if output_format not in _FORMATS:
        choices = ", ".join(map(repr, _FORMATS))
        sentence = f"Format {show(output_format)} is not known; use one of {choices}."
        raise invalid("format", sentence, reason="FORMAT_UNKNOWN")
    return _FORMATS[output_format]


def decode_format(number: int) -> UpscaleFormat:
    """Return the name of a format.

    Raises:
        ServiceError: this version does not know it.
    """
    name = _FORMAT_NAMES.get(number)
    if name is None:
        raise unreadable(f"format {number}")
    return name


def check_message_size(request: Message, content: bytes) -> None:
    """Refuse a request that no service would take.

    Raises:
        InvalidRequestError: IMAGE_TOO_LARGE.
    """
    if request.ByteSize() > MAX_MESSAGE_BYTES:
        sentence = f"The file has {len(content):,} bytes; a request holds {MAX_MESSAGE_BYTES:,}. Make it smaller."
        raise invalid("image.content", sentence, reason="IMAGE_TOO_LARGE")
