"""One connection to a service, and how calls over it are made in asyncio: Connection's twin."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from clipsr._async.stream import TaskStream
from clipsr._codecs.stream import Answer, Item, Source, StreamCodec
from clipsr._rpc import channel as rpc_channel
from clipsr._rpc import errors as call_errors
from clipsr._rpc.credentials import Access
from clipsr._rpc.retry import Deadline, RetryPolicy
from clipsr._rpc.window import Window
from clipsr._types import FailedImage


class AsyncConnection:
    """A channel that belongs to the event loop of its first call; arguments as Connection's.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT.
    """

    def __init__(self, url: str, *, timeout_s: float, retry: RetryPolicy, access: Access) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.retry = retry
        self._access = access
        self._target = rpc_channel.make_target(url)
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel; made now if it was not asked for before."""
        # Not in __init__: a channel takes hold of the running event loop, and there may be none yet.
        if self._channel is None:
            options, credentials = rpc_channel.channel_options(self.url), self._access.credentials
            if credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, options=options)
            else:
                self._channel = grpc.aio.secure_channel(self._target, credentials, options=options)
        return self._channel

    async def call(
        self, method: Callable[..., Any], request: object, timeout_s: float | None, *, retry: RetryPolicy | None = None
    ) -> Any:
        """Make a call; as Connection.call()."""
        deadline = Deadline(self.timeout_s if timeout_s is None else timeout_s)
        for attempt in itertools.count(1):
            try:
                return await method(request, timeout=deadline.left_s(), metadata=self._access.call_metadata())
            except grpc.RpcError as error:
                failure = call_errors.error_from_rpc(error, url=self.url, timeout_s=deadline.allowed_s)
                delay_s = (retry or self.retry).delay_s(failure, attempt=attempt, left_s=deadline.left_s())
                if delay_s is None:
                    raise failure from error
            await asyncio.sleep(delay_s)

    def stream(
        self,
        pick_method: Callable[[], Callable[..., Any]],
        images: Iterable[Source | FailedImage] | AsyncIterable[Source | FailedImage],
        codec: StreamCodec[Source, Item, Answer],
        *,
        read_ahead: int,
        idle_timeout_s: float | None,
    ) -> AsyncIterator[tuple[int, Answer | FailedImage]]:
        """Return the outcomes of a call that streams images; as Connection.stream(), see TaskStream.

        `pick_method` returns the call: there may be no event loop, and thus no channel, before the first outcome is
        waited for.
        """
        stream = TaskStream(
            open_call=lambda requests: pick_method()(requests, metadata=self._access.call_metadata()),
            images=images,
            window=Window(codec, max_images=read_ahead),
            retry=self.retry,
            idle_timeout_s=self.timeout_s if idle_timeout_s is None else idle_timeout_s,
            url=self.url,
        )
        return stream.outcomes()

    async def stream_responses(
        self, method: Callable[..., Any], request: object, *, progress: Callable[[Any], int], timeout_s: float | None
    ) -> AsyncGenerator[Any, None]:
        """Yield the answers of a call that sends many; as Connection.stream_responses()."""
        deadline = Deadline(math.inf if timeout_s is None else timeout_s)
        attempt, most = 0, -1
        while True:
            left_s = deadline.left_s()
            answers = method(
                request, timeout=None if timeout_s is None else left_s, metadata=self._access.call_metadata()
            )
            try:
                async for answer in answers:
                    if progress(answer) > most:
                        attempt, most = 0, progress(answer)
                    yield answer
                return
            except grpc.RpcError as error:
                attempt += 1
                failure = call_errors.error_from_rpc(error, url=self.url, timeout_s=deadline.allowed_s)
                delay_s = self.retry.delay_s(failure, attempt=attempt, left_s=deadline.left_s())
                if delay_s is None:
                    raise failure from error
            finally:
                answers.cancel()
            await asyncio.sleep(delay_s)

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        if self._channel is not None:
            await self._channel.close()
