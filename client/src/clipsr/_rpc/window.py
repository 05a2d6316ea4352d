"""What is under way in a stream: pure bookkeeping that both clients share, without threads, clocks or a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any, Generic

from google.protobuf.message import Message

from clipsr._codecs.classify import MAX_MESSAGE_BYTES, too_large, unreadable
from clipsr._codecs.stream import Answer, Item, Source, StreamCodec
from clipsr._types import FailedImage

READ_AHEAD = 64
"""Images of a stream that are read and not yet handed back; the service's Limits.max_stream_images."""

ADD_READ_AHEAD = 2 * READ_AHEAD
"""The same of a stream that adds images to a library, where half of them wait for their commit."""

_MAX_BYTES = 64 * 1024 * 1024
"""Bytes of these images, unless a single one has more: as much as classify() holds, one full message."""


class Window(Generic[Source, Item, Answer]):
    """Holds a bounded number of images from the moment they are read until their outcome is handed to the caller.

    Each image goes through: added, taken (sent), answered, popped. A failed connection sends back to "added" whatever
    was not answered.

    Args:
        codec: of the call.
        max_images: how many it holds.
        max_bytes: how many bytes of unanswered images it holds, except that one image always has room.
    """

    def __init__(
        self, codec: StreamCodec[Source, Item, Answer], *, max_images: int = READ_AHEAD, max_bytes: int = _MAX_BYTES
    ) -> None:
        self.codec = codec
        self._max_images, self._max_bytes = max_images, max_bytes
        self._next_index = 0
        self._is_ended = False
        self._waiting: dict[int, Item] = {}
        self._unsent: deque[int] = deque()
        self._ready: deque[tuple[int, Answer | FailedImage]] = deque()
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether another image may be read."""
        count = len(self._waiting) + len(self._ready)
        return count == 0 or (count < self._max_images and self._bytes < self._max_bytes)

    @property
    def unanswered(self) -> Collection[int]:
        """The indices of the images that the service has not answered, sent or not."""
        return self._waiting.keys()

    @property
    def is_taken(self) -> bool:
        """Whether there is nothing to send now or ever."""
        return self._is_ended and not self._unsent

    @property
    def is_done(self) -> bool:
        """Whether all is handed to the caller."""
        return self._is_ended and not self._waiting and not self._ready

    def add(self, item: Item | FailedImage) -> None:
        """Take in the next image, or why it could not be read."""
        index = self._next_index
        self._next_index += 1
        if isinstance(item, FailedImage):
            self._ready.append((index, item))
        elif self.codec.measure(item) > MAX_MESSAGE_BYTES:
            self._ready.append((index, too_large(self.codec.content_bytes(item), MAX_MESSAGE_BYTES)))
        else:
            self._waiting[index] = item
            self._unsent.append(index)
            self._bytes += self.codec.content_bytes(item)

    def end(self) -> None:
        """Note that no image follows."""
        self._is_ended = True

    def take(self) -> Message | None:
        """Return the next message to send; None if there is none at the moment."""
        if not self._unsent:
            return None
        index = self._unsent.popleft()
        return self.codec.encode(index, self._waiting[index])

    def answer(self, response: Any) -> None:
        """Take in an answer.

        Raises:
            ServiceError: nobody asked, or it says something that this version does not know.
        """
        index, outcome = self.codec.decode(response)
        if index not in self._waiting:
            raise unreadable(f"an answer for image {index}, which is not waiting for one")
        self._bytes -= self.codec.content_bytes(self._waiting.pop(index))
        self._ready.append((index, outcome))

    def pop(self) -> tuple[int, Answer | FailedImage] | None:
        """Return an outcome for the caller, whose place becomes free; None if there is none at the moment."""
        return self._ready.popleft() if self._ready else None

    def rewind(self) -> None:
        """Let everything that was not answered be sent again, in order."""
        self._unsent = deque(self._waiting)
