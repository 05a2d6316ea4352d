"""ClassifyStream: a configuration, then images; answers as they are ready."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable

from clipsr.v1 import classifier_pb2
from clipsr_gateway._calls import Call
from clipsr_gateway._image_classifier import ImageClassifier, PreparedQuestion
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway._plan import PlannedImage, plan_image
from clipsr_gateway._stream import Inbox, work_through
from clipsr_gateway.errors import InvalidRequestError, ShuttingDownError, StreamExpiredError, Violation

__all__ = ["ClassifyStream"]

_CONTENT_FIELD = "image.image.content"

_Write = Callable[[classifier_pb2.ClassifyStreamResponse], Awaitable[None]]


class ClassifyStream:
    """One call of ClassifyStream.

    Args:
        classifier: answers for one image.
        manifest: what is served.
        limits: what the stream may hold.
        draining: set when the server shuts down.
        max_age_s: how long the stream is read from.
        write: sends an answer to the caller.
        call: the call.
    """

    def __init__(
        self,
        *,
        classifier: ImageClassifier,
        manifest: Manifest,
        limits: Limits,
        draining: asyncio.Event,
        max_age_s: float,
        write: _Write,
        call: Call,
    ) -> None:
        self._classifier = classifier
        self._manifest = manifest
        self._limits = limits
        self._draining = draining
        self._max_age_s = max_age_s
        self._write = write
        self._writing = asyncio.Lock()  # gRPC sends one message of a stream at a time
        self._call = call
        self._routes: Counter[str] = Counter()
        self._images = 0
        self._failed = 0

    async def answer(self, requests: AsyncIterable[classifier_pb2.ClassifyStreamRequest]) -> None:
        """Answers every image that it reads.

        Raises:
            InvalidRequestError: the configuration is wrong, or messages come in another order.
            ShuttingDownError, StreamExpiredError: reading was stopped; everything that was read is answered.
            BackendUnavailableError, DeadlineExceededError: the images that are not answered would fare no better.
        """
        inbox = Inbox(requests, draining=self._draining, max_age_s=self._max_age_s)
        first = await inbox.read()
        if first is not None:
            prepared = await self._classifier.prepare(_config_of(first), self._call)
            await work_through(
                inbox,
                lambda message: self._answer_message(message, prepared),
                size_of=lambda message: len(message.image.image.content),
                max_items=self._limits.max_stream_images,
                max_bytes=self._limits.max_message_bytes,
            )
        if inbox.is_stopped:
            raise self._stopped()
        if first is None:
            raise _refuse("config", "CONFIG_MISSING", "The stream ended before its first message, the configuration.")

    async def _answer_message(self, message: classifier_pb2.ClassifyStreamRequest, prepared: PreparedQuestion) -> None:
        _check_image_message(message)
        index = message.image.index
        content = message.image.image.content
        image = await run_off_loop(
            len(content),
            plan_image,
            content,
            number=index,
            field=_CONTENT_FIELD,
            forced=prepared.question.route,
            manifest=self._manifest,
            limits=self._limits,
        )
        if isinstance(image, PlannedImage):
            labels = len(prepared.question.query.labels)
            await self._call.take_on_in_turn(units=image.units(labels=labels))
        result = await self._classifier.classify(image, prepared, self._call)
        self._count(image, result)
        async with self._writing:
            await self._write(classifier_pb2.ClassifyStreamResponse(index=index, result=result))

    def _count(self, image: PlannedImage | Violation, result: classifier_pb2.ClassifyResult) -> None:
        self._images += 1
        self._failed += result.HasField("error")
        if isinstance(image, PlannedImage):
            self._routes[image.route] += 1
        self._call.fields.update(images=self._images, failed=self._failed, routes=self._routes)

    def _stopped(self) -> ShuttingDownError | StreamExpiredError:
        rest = "every image that it read is answered; send the others on a new stream."
        if self._draining.is_set():
            return ShuttingDownError(f"This server is shutting down and has stopped reading the stream; {rest}")
        return StreamExpiredError(f"The server reads a stream for {self._max_age_s:,.0f} s at most; {rest}")


def _config_of(message: classifier_pb2.ClassifyStreamRequest) -> classifier_pb2.ClassifyStreamConfig:
    if not message.HasField("config"):
        sentence = "The first message of a stream must be its configuration; set config, and send images after it."
        raise _refuse("config", "CONFIG_MISSING", sentence)
    return message.config


def _check_image_message(message: classifier_pb2.ClassifyStreamRequest) -> None:
    """Refuses anything but an image.

    Raises:
        InvalidRequestError: the stream is out of order.
    """
    if message.HasField("config"):
        sentence = "The configuration came twice; a stream has one, its first message. Open another stream."
        raise _refuse("config", "CONFIG_REPEATED", sentence)
    if not message.HasField("image"):
        sentence = "A message of the stream holds nothing; after the configuration, set image in every message."
        raise _refuse("image", "MESSAGE_EMPTY", sentence)


def _refuse(field: str, reason: str, sentence: str) -> InvalidRequestError:
    return InvalidRequestError([Violation(field=field, reason=reason, sentence=sentence)])
