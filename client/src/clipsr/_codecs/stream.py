"""What differs between the calls that stream images: their messages. The window and the two streams do the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from clipsr import _images
from clipsr._codecs.classify import decode_result, decode_warnings, message_bytes
from clipsr._types import AnswerWarning, Classification, FailedImage, ImageSource
from clipsr.v1 import classifier_pb2, types_pb2

MESSAGE_OVERHEAD_BYTES = 32
"""What a stream's message adds around an image (ClassifyStreamRequest, StreamImage): tags, lengths and a uint64."""

Source = TypeVar("Source")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

Outcome = tuple[int, Classification | FailedImage]
"""The image's place among the images, from 0, and what became of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamCodec(Generic[Source, Item, Answer]):
    """The messages of one call, and how a caller's image becomes one.

    Attributes:
        first: the first message of each connection, the options.
        read: returns what is held of a source until it is answered, or why it cannot be read.
        content_bytes: of the item's image file.
        measure: at most so many bytes has the item's message.
        encode: returns the message of an item, which carries its index.
        decode: returns the index and the outcome of an answer; raises ServiceError for one that cannot be understood.
    """

    first: Message
    read: Callable[[Source | FailedImage], Item | FailedImage]
    content_bytes: Callable[[Item], int]
    measure: Callable[[Item], int]
    encode: Callable[[int, Item], Message]
    decode: Callable[[Any], tuple[int, Answer | FailedImage]]


def classify_stream_codec(options: classifier_pb2.ClassifyOptions) -> StreamCodec[ImageSource, bytes, Classification]:
    """Return the codec of ClassifyStream, from what encode_options() returned."""
    return StreamCodec(
        first=classifier_pb2.ClassifyStreamRequest(options=options),
        read=_images.try_read_image,
        content_bytes=len,
        measure=lambda content: message_bytes(len(content)) + MESSAGE_OVERHEAD_BYTES,
        encode=_encode_image,
        decode=_Answers().decode,
    )


def _encode_image(index: int, content: bytes) -> classifier_pb2.ClassifyStreamRequest:
    image = types_pb2.Image(content=content)
    return classifier_pb2.ClassifyStreamRequest(image=classifier_pb2.StreamImage(index=index, image=image))


class _Answers:
    """Decodes the answers of one run: warnings come with one of them and hold for those that follow, too."""

    def __init__(self) -> None:
        self._warnings: tuple[AnswerWarning, ...] = ()

    def decode(self, response: classifier_pb2.ClassifyStreamResponse) -> Outcome:
        self._warnings = decode_warnings(response.warnings) or self._warnings
        return response.index, decode_result(response.result, warnings=self._warnings)
