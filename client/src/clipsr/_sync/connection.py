"""One connection to a service, and how calls over it are made by code that waits."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from clipsr._codecs.stream import Answer, Item, Source, StreamCodec
from clipsr._rpc import channel as rpc_channel
from clipsr._rpc import errors as call_errors
from clipsr._rpc.credentials import Access
from clipsr._rpc.retry import Deadline, RetryPolicy
from clipsr._rpc.window import Window
from clipsr._sync.stream import ThreadStream
from clipsr._types import FailedImage


class Connection:
    """A channel that connects with its first call and may be shared by threads.

    Args:
        url: as Client's.
        timeout_s: as Client's.
        retry: when calls are made again that do not say otherwise.
        access: how the service lets it in.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT.
    """

    def __init__(self, url: str, *, timeout_s: float, retry: RetryPolicy, access: Access) -> None:
        self.url = url
        self.timeout_s = timeout_s
        self.retry = retry
        self._access = access
        target, options = rpc_channel.make_target(url), rpc_channel.channel_options(url)
        if access.credentials is None:
            self.channel = grpc.insecure_channel(target, options=options)
        else:
            self.channel = grpc.secure_channel(target, access.credentials, options=options)

    def call(
        self, method: Callable[..., Any], request: object, timeout_s: float | None, *, retry: RetryPolicy | None = None
    ) -> Any:
        """Make a call, again where its failure allows it, within one deadline.

        Raises:
            ClipsrError: it failed, or nothing is left of the deadline.
        """
        deadline = Deadline(self.timeout_s if timeout_s is None else timeout_s)
        for attempt in itertools.count(1):
            try:
                return method(request, timeout=deadline.left_s(), metadata=self._access.call_metadata())
            except grpc.RpcError as error:
                failure = call_errors.error_from_rpc(error, url=self.url, timeout_s=deadline.allowed_s)
                delay_s = (retry or self.retry).delay_s(failure, attempt=attempt, left_s=deadline.left_s())
                if delay_s is None:
                    raise failure from error
            time.sleep(delay_s)

    def stream(
        self,
        method: Callable[..., Any],
        images: Iterable[Source | FailedImage],
        codec: StreamCodec[Source, Item, Answer],
        *,
        read_ahead: int,
        idle_timeout_s: float | None,
    ) -> Iterator[tuple[int, Answer | FailedImage]]:
        """Return the outcomes of a call that streams images; see ThreadStream."""
        stream = ThreadStream(
            open_call=lambda requests: method(requests, metadata=self._access.call_metadata()),
            images=images,
            window=Window(codec, max_images=read_ahead),
            retry=self.retry,
            idle_timeout_s=self.timeout_s if idle_timeout_s is None else idle_timeout_s,
            url=self.url,
        )
        return stream.outcomes()

    def stream_responses(
        self, method: Callable[..., Any], request: object, *, progress: Callable[[Any], int], timeout_s: float | None
    ) -> Iterator[Any]:
        """Yield the answers of a call that sends many; after a failure it is made again, as call() does.

        Args:
            method: the call; making it again goes on with what it had begun.
            request: its request.
            progress: how far an answer says that the work is; attempts are counted anew as it grows.
            timeout_s: deadline of the whole, in seconds; None sets none.

        Raises:
            ClipsrError: it failed.
        """
        deadline = Deadline(math.inf if timeout_s is None else timeout_s)
        attempt, most = 0, -1
        while True:
            left_s = deadline.left_s()
            answers = method(
                request, timeout=None if timeout_s is None else left_s, metadata=self._access.call_metadata()
            )
            try:
                for answer in answers:
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
            time.sleep(delay_s)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()
