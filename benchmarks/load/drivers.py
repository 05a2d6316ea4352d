"""How each kind of system is asked. What can be prepared is prepared, so that little of the time is the caller's.

Every driver opens connections and gives one `Ask` for each; a status is gRPC's name of it, `HTTP 503` and the like, or
the name of the exception.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc import code_pb2

from benchmarks.load.loops import Ask
from benchmarks.load.plan import Target
from benchmarks.load.summary import OK
from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, types_pb2

__all__ = ["connect"]

_CLASSIFY = "/clipsr.v1.ClassifierService/Classify"
_ROUTES = {"auto": "ROUTE_UNSPECIFIED", "upscaled": "ROUTE_UPSCALED", "native": "ROUTE_NATIVE"}
_TOP_K = 5


@asynccontextmanager
async def connect(
    target: Target, images: Sequence[bytes], *, connections: int, timeout_s: float
) -> AsyncIterator[list[Ask]]:
    """Open connections to a target and prepare a request for each image; gives one `Ask` a connection."""
    if target.kind == "grpc":
        opened = _unary(target, images, connections, timeout_s)
    elif target.kind == "grpc-stream":
        opened = _streams(target, images, connections, timeout_s)
    else:
        from benchmarks.load.http_driver import connect_http  # aiohttp is not where only gRPC is asked

        opened = connect_http(target, images, connections, timeout_s)
    async with opened as asks:
        yield asks


def _options(target: Target) -> classifier_pb2.ClassifyOptions:
    return classifier_pb2.ClassifyOptions(
        label_space=types_pb2.LabelSpace(labels=target.labels, label_set=target.label_set),
        route=_ROUTES[target.route],
        top_k=_TOP_K,
    )


def _requests(target: Target, images: Sequence[bytes]) -> list[bytes]:
    """As many calls as images, each serialized, each beginning at another image: every image is sent as often."""
    batches = [[images[(i + k) % len(images)] for k in range(target.images_per_call)] for i in range(len(images))]
    return [
        classifier_pb2.ClassifyRequest(
            images=[types_pb2.Image(content=content) for content in batch], options=_options(target)
        ).SerializeToString()
        for batch in batches
    ]


def _status_of_all(results: Sequence[classifier_pb2.ClassifyResult], expected: int) -> str:
    """OK if every image has a result, else the status of the first that failed."""
    if len(results) != expected:
        return f"{len(results)} RESULTS"
    return next((status for status in map(_status_of, results) if status != OK), OK)


def _status_of(result: classifier_pb2.ClassifyResult) -> str:
    return OK if result.WhichOneof("outcome") == "classification" else code_pb2.Code.Name(result.error.code)


@asynccontextmanager
async def _unary(target: Target, images: Sequence[bytes], connections: int, timeout_s: float) -> AsyncIterator[list]:
    requests = _requests(target, images)
    channels = [target.access.open_channel(target.url) for _ in range(connections)]

    metadata = target.access.metadata()

    def ask_over(channel: grpc.aio.Channel) -> Ask:
        # Requests are bytes already.
        call: Any = channel.unary_unary(_CLASSIFY, response_deserializer=classifier_pb2.ClassifyResponse.FromString)

        async def ask(number: int) -> str:
            try:
                answer = await call(requests[number % len(requests)], timeout=timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return _status_of_all(answer.results, target.images_per_call)

        return ask

    try:
        yield [ask_over(channel) for channel in channels]
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


class _Stream:
    """One ClassifyStream, shared by any number of callers; answers find their caller by the index."""

    def __init__(self, channel: grpc.aio.Channel, target: Target, images: Sequence[bytes]) -> None:
        stub: Any = classifier_pb2_grpc.ClassifierServiceStub(channel)
        self._call: Any = stub.ClassifyStream(metadata=target.access.metadata())
        self._options = _options(target)
        self._images = images
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._write = asyncio.Lock()
        self._n_sent = 0
        self._reader: asyncio.Task[None] | None = None
        self._ended = ""

    async def open(self) -> None:
        await self._call.write(classifier_pb2.ClassifyStreamRequest(options=self._options))
        self._reader = asyncio.ensure_future(self._read())

    async def ask(self, number: int, timeout_s: float) -> str:
        if self._ended:
            return self._ended
        index, self._n_sent = self._n_sent, self._n_sent + 1
        answer = self._waiting[index] = asyncio.get_running_loop().create_future()
        content = self._images[number % len(self._images)]
        image = classifier_pb2.StreamImage(index=index, image=types_pb2.Image(content=content))
        try:
            async with self._write:
                await self._call.write(classifier_pb2.ClassifyStreamRequest(image=image))
            return await asyncio.wait_for(answer, timeout_s)
        except asyncio.TimeoutError:
            return "DEADLINE_EXCEEDED"
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return self._ended or "UNAVAILABLE"
        finally:
            self._waiting.pop(index, None)

    async def close(self, timeout_s: float) -> None:
        if self._ended:
            return
        try:
            await self._call.done_writing()
            if self._reader is not None:
                await asyncio.wait_for(self._reader, timeout_s)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.TimeoutError):
            self._call.cancel()  # everything that was asked has its status already

    async def _read(self) -> None:
        try:
            async for response in self._call:
                if (waiting := self._waiting.get(response.index)) is not None and not waiting.done():
                    waiting.set_result(_status_of(response.result))
            self._ended = "UNAVAILABLE"
        except grpc.aio.AioRpcError as error:
            self._ended = error.code().name
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(self._ended)


@asynccontextmanager
async def _streams(target: Target, images: Sequence[bytes], connections: int, timeout_s: float) -> AsyncIterator[list]:
    channels = [target.access.open_channel(target.url) for _ in range(connections)]
    streams = [_Stream(channel, target, images) for channel in channels]

    def ask_over(stream: _Stream) -> Ask:
        return lambda number: stream.ask(number, timeout_s)

    try:
        await asyncio.gather(*(stream.open() for stream in streams))
        yield [ask_over(stream) for stream in streams]
        await asyncio.gather(*(stream.close(timeout_s) for stream in streams))
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))
