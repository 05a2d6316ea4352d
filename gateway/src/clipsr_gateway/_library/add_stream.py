"""AddImages: options, then images; answers as they are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable

from clipsr.v1 import library_pb2
from clipsr_gateway._calls.call import Call
from clipsr_gateway._calls.streams import RequestStream, check_image_message, process_concurrently, require_options
from clipsr_gateway._library.add import Adder, AddOptions
from clipsr_gateway._limits import Limits

# As many images of a stream as the models are kept busy with, and as many again that wait for their commit.
_SHARES = 2


class AddStream:
    """One call of AddImages.

    Args:
        adder: adds one image.
        prepare: checks the options.
        limits: what the stream may hold.
        draining: set when the server shuts down.
        max_age_s: how long the stream is read from.
        write: sends an answer to the caller.
        call: the call.
    """

    def __init__(
        self,
        *,
        adder: Adder,
        prepare: Callable[[library_pb2.AddImagesOptions], Awaitable[AddOptions]],
        limits: Limits,
        draining: asyncio.Event,
        max_age_s: float,
        write: Callable[[library_pb2.AddImagesResponse], Awaitable[None]],
        call: Call,
    ) -> None:
        self._adder = adder
        self._prepare = prepare
        self._limits = limits
        self._draining = draining
        self._max_age_s = max_age_s
        self._write = write
        self._writing = asyncio.Lock()  # gRPC sends one message of a stream at a time
        self._call = call
        self._counts = {"images": 0, "added": 0, "present": 0, "failed": 0}

    async def answer(self, requests: AsyncIterable[library_pb2.AddImagesRequest]) -> None:
        """Answer every image that it reads.

        Raises:
            InvalidRequestError: the options are wrong, or messages come in another order.
            ShuttingDownError, StreamExpiredError: reading was stopped; everything that was read is answered.
            LibraryError, BackendUnavailableError, DeadlineExceededError: the images that are not answered would fare no
                better.
        """
        async with RequestStream(requests, draining=self._draining, max_age_s=self._max_age_s) as inbox:
            first = await inbox.read()
            if first is not None:
                options = await self._prepare(require_options(first).options)
                await process_concurrently(
                    inbox,
                    lambda message: self._answer_message(message, options),
                    size_of=lambda message: len(message.image.image.content),
                    max_items=_SHARES * self._limits.max_stream_images,
                    max_bytes=self._limits.max_message_bytes,
                )
        if inbox.is_stopped:
            raise inbox.stop_reason()
        require_options(first)

    async def _answer_message(self, message: library_pb2.AddImagesRequest, options: AddOptions) -> None:
        check_image_message(message)
        answer = await self._adder.add(message.image, options, self._call)
        outcome = {"added": "added", "already_present": "present"}.get(answer.WhichOneof("outcome") or "", "failed")
        self._counts["images"] += 1
        self._counts[outcome] += 1
        self._call.fields.update(self._counts)
        async with self._writing:
            await self._write(answer)
