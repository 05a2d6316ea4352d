"""A stream of options and then images: read until told to stop, answered as results come, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from clipsr.v1 import classifier_pb2, library_pb2
from clipsr_gateway._calls.call import Call, let_cancellation_come
from clipsr_gateway.errors import InvalidRequestError, ShuttingDownError, StreamExpiredError, Violation

_T = TypeVar("_T")
_M = TypeVar("_M", classifier_pb2.ClassifyStreamRequest, library_pb2.AddImagesRequest)


class ImageStream(Generic[_M]):
    """The messages of a caller, until it closes its side or the server stops reading; to be entered before reading.

    Belongs to one task at a time.

    Args:
        source: the messages.
        call: the call, whose server may want to stop.
        max_age_s: seconds after which it stops reading anyway.
    """

    def __init__(self, source: AsyncIterable[_M], *, call: Call, max_age_s: float) -> None:
        self._source = aiter(source)
        self._draining = call.draining
        self._drained: asyncio.Future[Any] | None = None
        self._max_age_s = max_age_s
        self._expires_s = asyncio.get_running_loop().time() + max_age_s
        self._is_stopped = False

    async def __aenter__(self) -> ImageStream[_M]:
        """Begin to listen for the server's stop."""
        self._drained = asyncio.ensure_future(self._draining.wait())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Listen no longer."""
        if self._drained is not None:
            await _cancel(self._drained)

    async def read_first(self) -> _M:
        """Return the first message, which holds the options.

        Raises:
            InvalidRequestError: there is none, or it holds something else.
            ShuttingDownError, StreamExpiredError: reading was stopped.
        """
        message = await self._read()
        self._raise_if_stopped()
        if message is None:
            raise _refuse("options", "OPTIONS_MISSING", "The stream ended before its first message, the options.")
        if not message.HasField("options"):
            text = "The first message of a stream must hold its options; set options, and send images after it."
            raise _refuse("options", "OPTIONS_MISSING", text)
        return message

    async def answer_images(
        self,
        answer: Callable[[_M], Awaitable[_T]],
        *,
        write: Callable[[_T], Awaitable[None]],
        max_items: int,
        max_bytes: int,
    ) -> None:
        """Answer every image that is read, each when it is ready.

        Args:
            answer: returns the answer to the image of a message; an error ends the call.
            write: sends an answer to the caller.
            max_items: images in the server at once.
            max_bytes: bytes of the images in the server at which no further one is read; so the last may exceed it.

        Raises:
            InvalidRequestError: messages come in another order.
            ShuttingDownError, StreamExpiredError: reading was stopped; everything that was read is answered.
        """
        writing = asyncio.Lock()  # gRPC sends one message of a stream at a time

        async def answer_message(message: _M) -> None:
            _check_image_message(message)
            result = await answer(message)
            async with writing:
                await write(result)

        await process_concurrently(
            self._read,
            answer_message,
            size_of=lambda message: len(message.image.image.content),
            max_items=max_items,
            max_bytes=max_bytes,
        )
        self._raise_if_stopped()

    def _raise_if_stopped(self) -> None:
        """Raise the error that ends the call if the server stopped reading: there may be messages that it never saw."""
        rest = "every image that it read is answered; send the others on a new stream."
        if not self._is_stopped:
            return
        if self._draining.is_set():
            raise ShuttingDownError(f"This server is shutting down and has stopped reading the stream; {rest}")
        raise StreamExpiredError(f"The server reads a stream for {self._max_age_s:,.0f} s at most; {rest}")

    async def _read(self) -> _M | None:
        """Return the next message; None at the end, and once the server stops reading."""
        left_s = self._expires_s - asyncio.get_running_loop().time()
        if self._drained is None:
            raise RuntimeError("a stream must be entered before it is read")
        if self._draining.is_set() or left_s <= 0:
            self._is_stopped = True
            return None
        reading = asyncio.ensure_future(self._next())
        try:
            await asyncio.wait((reading, self._drained), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            self._is_stopped = True
            return None
        finally:
            if not reading.done():
                await _cancel(reading)

    async def _next(self) -> _M | None:
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            await let_cancellation_come()
            return None


async def process_concurrently(
    read: Callable[[], Coroutine[Any, Any, _T | None]],
    work: Callable[[_T], Awaitable[None]],
    *,
    size_of: Callable[[_T], int],
    max_items: int,
    max_bytes: int,
) -> None:
    """Do `work` on every message, on several at once, and read no further than there is room for.

    The first error ends all work, as a cancellation does.

    Args:
        read: returns the next message; None after the last.
        work: done once the answer was sent.
        size_of: bytes of a message.
        max_items: messages in the server at once.
        max_bytes: bytes of the messages in the server at which no further one is read; so the last may exceed it.
    """
    running: dict[asyncio.Future[None], int] = {}
    running_bytes = 0
    reading: asyncio.Future[_T | None] | None = None
    is_open = True
    # asyncio.wait() would look at everything that runs whenever one thing has changed.
    ended: list[asyncio.Future[Any]] = []
    has_changed = asyncio.Event()

    def end(task: asyncio.Future[Any]) -> None:
        ended.append(task)
        has_changed.set()

    try:
        while is_open or running:
            if is_open and reading is None and len(running) < max_items and running_bytes < max_bytes:
                reading = asyncio.ensure_future(read())
                reading.add_done_callback(end)
            await has_changed.wait()
            has_changed.clear()
            for task in ended:
                if task in running:  # else it was the reading of a message
                    running_bytes -= running.pop(task)
                    task.result()
            ended.clear()
            if reading is not None and reading.done():
                message, reading = reading.result(), None
                if message is None:
                    is_open = False
                else:
                    task = asyncio.ensure_future(work(message))
                    task.add_done_callback(end)
                    running[task] = size_of(message)
                    running_bytes += running[task]
    finally:
        await _cancel(*running, *([reading] if reading else []))


def _check_image_message(message: classifier_pb2.ClassifyStreamRequest | library_pb2.AddImagesRequest) -> None:
    """Refuse anything but an image.

    Raises:
        InvalidRequestError: the stream is out of order.
    """
    if message.HasField("options"):
        text = "The options came twice; a stream has them once, in its first message. Open another stream."
        raise _refuse("options", "OPTIONS_REPEATED", text)
    if not message.HasField("image"):
        text = "A message of the stream holds nothing; after the options, set image in every message."
        raise _refuse("image", "MESSAGE_EMPTY", text)


def _refuse(field: str, reason: str, message: str) -> InvalidRequestError:
    return InvalidRequestError([Violation(field=field, reason=reason, message=message)])


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
