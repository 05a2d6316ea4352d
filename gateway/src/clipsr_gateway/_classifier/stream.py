"""ClassifyStream: options, then images; answers as they are ready."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable

from clipsr.v1 import classifier_pb2
from clipsr_gateway._calls.call import Call
from clipsr_gateway._calls.streams import RequestStream, check_image_message, process_concurrently, require_options
from clipsr_gateway._classifier.classifier import ImageClassifier, PreparedOptions
from clipsr_gateway._images.plan import PlannedImage, plan_image
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway.errors import Violation

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
        """Answer every image that it reads.

        Raises:
            InvalidRequestError: the options are wrong, or messages come in another order.
            ShuttingDownError, StreamExpiredError: reading was stopped; everything that was read is answered.
            BackendUnavailableError, DeadlineExceededError: the images that are not answered would fare no better.
        """
        async with RequestStream(requests, draining=self._draining, max_age_s=self._max_age_s) as inbox:
            first = await inbox.read()
            if first is not None:
                prepared = await self._classifier.prepare(require_options(first).options, self._call)
                await process_concurrently(
                    inbox,
                    lambda message: self._answer_message(message, prepared),
                    size_of=lambda message: len(message.image.image.content),
                    max_items=self._limits.max_stream_images,
                    max_bytes=self._limits.max_message_bytes,
                )
        if inbox.is_stopped:
            raise inbox.stop_reason()
        require_options(first)

    async def _answer_message(self, message: classifier_pb2.ClassifyStreamRequest, prepared: PreparedOptions) -> None:
        check_image_message(message)
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
            await self._call.admit_next(units=image.units(labels=labels))
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
