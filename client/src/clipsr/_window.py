"""What is under way in a stream: pure bookkeeping that both clients share, without threads, clocks or a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from clipsr._codec import MAX_MESSAGE_BYTES, decode_result, message_bytes, too_large, unreadable
from clipsr._types import Classification, FailedImage
from clipsr.v1 import classifier_pb2, types_pb2

__all__ = ["READ_AHEAD", "Outcome", "Window", "encode_config"]

READ_AHEAD = 64
"""Images of a stream that are read and not yet handed back; the service's Limits.max_stream_images."""

_MAX_BYTES = 64 * 1024 * 1024
"""Bytes of these images, unless a single one has more: as much as classify() holds, one full message."""

_MESSAGE_OVERHEAD_BYTES = 32  # of ClassifyStreamRequest and StreamImage around an image: tags, lengths and a uint64

Outcome = tuple[int, Classification | FailedImage]
"""The image's place among the images, from 0, and what became of it."""


def encode_config(query: classifier_pb2.ClassifyRequest) -> classifier_pb2.ClassifyStreamRequest:
    """Returns the first message of a stream, from what encode_query() returned."""
    config = classifier_pb2.ClassifyStreamConfig(
        label_space=query.label_space,
        fit=query.fit,
        route=query.route,
        top_k=query.top_k,
        none_of_these=query.none_of_these if query.HasField("none_of_these") else None,
        return_embedding=query.return_embedding,
        return_encoder_input=query.return_encoder_input,
    )
    return classifier_pb2.ClassifyStreamRequest(config=config)


@dataclass(kw_only=True, slots=True)
class Window:
    """Holds a bounded number of images from the moment they are read until their outcome is handed to the caller.

    Each image goes through: added, taken (sent), answered, popped. A failed connection sends back to "added" whatever
    was not answered.

    Attributes:
        max_images: how many it holds.
        max_bytes: how many bytes of unanswered images it holds, except that one image always has room.
    """

    max_images: int = READ_AHEAD
    max_bytes: int = _MAX_BYTES
    _next_index: int = 0
    _is_ended: bool = False
    _waiting: dict[int, bytes] = field(default_factory=dict[int, bytes])
    _unsent: deque[int] = field(default_factory=deque[int])
    _ready: deque[Outcome] = field(default_factory=deque[Outcome])
    _bytes: int = 0

    @property
    def has_room(self) -> bool:
        """Whether another image may be read."""
        count = len(self._waiting) + len(self._ready)
        return count == 0 or (count < self.max_images and self._bytes < self.max_bytes)

    @property
    def unanswered(self) -> Mapping[int, bytes]:
        """The images that the service has not answered, sent or not."""
        return self._waiting

    @property
    def is_taken(self) -> bool:
        """Whether there is nothing to send now or ever."""
        return self._is_ended and not self._unsent

    @property
    def is_done(self) -> bool:
        """Whether all is handed to the caller."""
        return self._is_ended and not self._waiting and not self._ready

    def add(self, image: bytes | FailedImage) -> None:
        """Takes in the next image, or why it could not be read."""
        index = self._next_index
        self._next_index += 1
        if isinstance(image, bytes) and message_bytes(len(image)) > MAX_MESSAGE_BYTES - _MESSAGE_OVERHEAD_BYTES:
            image = too_large(len(image), MAX_MESSAGE_BYTES)
        if isinstance(image, FailedImage):
            self._ready.append((index, image))
        else:
            self._waiting[index] = image
            self._unsent.append(index)
            self._bytes += len(image)

    def end(self) -> None:
        """Notes that no image follows."""
        self._is_ended = True

    def take(self) -> classifier_pb2.ClassifyStreamRequest | None:
        """Returns the next message to send; None if there is none at the moment."""
        if not self._unsent:
            return None
        index = self._unsent.popleft()
        image = types_pb2.Image(content=self._waiting[index])
        return classifier_pb2.ClassifyStreamRequest(image=classifier_pb2.StreamImage(index=index, image=image))

    def answer(self, response: classifier_pb2.ClassifyStreamResponse) -> None:
        """Takes in an answer.

        Raises:
            ServiceError: nobody asked, or it says something that this version does not know.
        """
        if response.index not in self._waiting:
            raise unreadable(f"an answer for image {response.index}, which is not waiting for one")
        outcome = decode_result(response.result)
        self._bytes -= len(self._waiting.pop(response.index))
        self._ready.append((response.index, outcome))

    def pop(self) -> Outcome | None:
        """Returns an outcome for the caller, whose place becomes free; None if there is none at the moment."""
        return self._ready.popleft() if self._ready else None

    def rewind(self) -> None:
        """Lets everything that was not answered be sent again, in order."""
        self._unsent = deque(self._waiting)
