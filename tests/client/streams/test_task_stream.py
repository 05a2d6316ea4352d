"""TaskStream alone, over scripted connections: grpc.aio loses a status only now and then, and never on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int64Value

from clipsr._async.stream import TaskStream
from clipsr._codecs.stream import StreamCodec
from clipsr._errors import ServiceUnavailableError
from clipsr._rpc.lifetime import Lifetime
from clipsr._rpc.retry import RetryPolicy
from clipsr._rpc.window import Window

_CONFIG = Int64Value(value=-1)

_CODEC = StreamCodec(
    first=_CONFIG,
    read=lambda source: source,
    content_bytes=lambda _: 1,
    measure=lambda _: 1,
    encode=lambda index, _: Int64Value(value=index),
    decode=lambda answer: (answer.value, "answered"),
)


def ended_with(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class Refused:
    """What TaskStream uses of a call, which the service refuses a moment after the configuration.

    As in grpc.aio, the status is lost if an image is sent meanwhile.
    """

    def __init__(self, requests: AsyncIterator[Any], sent: list[int]) -> None:
        self._requests, self._sent = requests, sent

    async def __aiter__(self) -> AsyncIterator[Any]:
        assert await anext(self._requests) == _CONFIG
        image = asyncio.ensure_future(anext(self._requests))
        await asyncio.wait([image], timeout=0.1)
        if image.done():
            self._sent.append(image.result().value)
            raise ended_with(grpc.StatusCode.INTERNAL, "Internal error from Core")
        image.cancel()
        raise ended_with(grpc.StatusCode.UNAVAILABLE, "Down.")
        yield  # makes it a generator

    def cancel(self) -> None:
        """Nothing is under way that would have to stop."""


async def test_after_a_lost_status_connections_listen_until_one_is_answered():
    connections: list[list[int]] = []

    def open_call(requests: AsyncIterator[Any]) -> Refused:
        connections.append([])
        return Refused(requests, connections[-1])

    stream = TaskStream(
        open_call=open_call,
        images=range(3),
        window=Window(_CODEC),
        retry=RetryPolicy(retries=2, draw=lambda: 1.0),
        idle_timeout_s=30.0,
        url="a test",
        lifetime=Lifetime(),
    )
    with pytest.raises(ServiceUnavailableError, match=r"Down\."):
        [outcome async for outcome in stream.outcomes()]
    assert connections == [[0], [], [], []]  # the first found out nothing, so it is no attempt
