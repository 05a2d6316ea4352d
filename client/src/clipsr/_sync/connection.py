# Written by scripts/unasync.py from _async/connection.py: change that one.
"""One connection to a service, and how calls over it are made."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import grpc

from clipsr._codecs.arguments import as_count, as_seconds
from clipsr._codecs.stream import Answer, Item, Source, StreamCodec
from clipsr._rpc.credentials import Access
from clipsr._rpc.errors import error_from_rpc
from clipsr._rpc.retry import Deadline, RetryPolicy
from clipsr._rpc.window import Window
from clipsr._sync.channel import Channel
from clipsr._sync.stream import ThreadStream
from clipsr._types import FailedImage


class Connection:
    """A channel and how calls over it are retried.

    Args:
        url: HOST:PORT of the gateway.
        timeout_s: deadline of a call that does not set its own, in seconds.
        retry: when calls are made again that do not say otherwise.
        access: how the service lets it in.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT.
    """

    def __init__(self, url: str, *, timeout_s: float, retry: RetryPolicy, access: Access) -> None:
        self.url = url
        self.timeout_s = as_seconds("timeout_s", timeout_s)
        self.retry = retry
        self._access = access
        self._channel = Channel(url, access)
        self.stub = self._channel.stub
        self.sleep = self._channel.sleep
        self.close = self._channel.close

    def choose_timeout_s(self, timeout_s: float | None, *, name: str = "timeout_s") -> float:
        """Return the time that was given, or the client's for None; raise as as_seconds()."""
        return self.timeout_s if timeout_s is None else as_seconds(name, timeout_s)

    def call(
        self, method: Callable[..., Any], request: object, timeout_s: float | None, *, retry: RetryPolicy | None = None
    ) -> Any:
        """Make a call, again where its failure allows it, within one deadline.

        Raises:
            ClipsrError: it failed, or nothing is left of the deadline.
        """
        deadline = Deadline(self.choose_timeout_s(timeout_s))
        for attempt in itertools.count(1):
            try:
                with self._channel.in_use():
                    return method(request, timeout=deadline.left_s(), metadata=self._access.call_metadata())
            except grpc.RpcError as error:
                failure = error_from_rpc(error, url=self.url, timeout_s=deadline.allowed_s)
                delay_s = (retry or self.retry).delay_s(failure, attempt=attempt, left_s=deadline.left_s())
                if delay_s is None:
                    raise failure from error
            self.sleep(delay_s)

    def stream(
        self,
        pick_method: Callable[[], Callable[..., Any]],
        images: Iterable[Source | FailedImage],
        codec: StreamCodec[Source, Item, Answer],
        *,
        read_ahead: int,
        idle_timeout_s: float | None,
    ) -> Iterator[tuple[int, Answer | FailedImage]]:
        """Return the outcomes of a call that streams images.

        `pick_method` returns the call: in asyncio there may be no event loop, and thus no channel, before the first
        outcome is waited for.
        """
        stream = ThreadStream(
            open_call=lambda requests: pick_method()(requests, metadata=self._access.call_metadata()),
            images=images,
            window=Window(codec, max_images=as_count("read_ahead", read_ahead, least=1)),
            retry=self.retry,
            idle_timeout_s=self.choose_timeout_s(idle_timeout_s, name="idle_timeout_s"),
            url=self.url,
            lifetime=self._channel.lifetime,
        )
        return stream.outcomes()

    def stream_responses(
        self, method: Callable[..., Any], request: object, *, progress: Callable[[Any], int], timeout_s: float | None
    ) -> Generator[Any, None]:
        """Yield the answers of a call that sends many; after a failure it is made again, as call() does.

        Args:
            method: the call; making it again continues what it had begun.
            request: its request.
            progress: how far an answer says that the work is; attempts are counted from its last growth.
            timeout_s: deadline of the whole, in seconds; None sets none.

        Raises:
            ClipsrError: it failed.
        """
        deadline = Deadline(math.inf if timeout_s is None else as_seconds("timeout_s", timeout_s))
        attempt, most = 0, -1
        while True:
            try:
                with self._channel.in_use():
                    left_s = None if timeout_s is None else deadline.left_s()
                    answers = method(request, timeout=left_s, metadata=self._access.call_metadata())
                    try:
                        for answer in answers:
                            if progress(answer) > most:
                                attempt, most = 0, progress(answer)
                            yield answer
                        return
                    finally:
                        answers.cancel()
            except grpc.RpcError as error:
                attempt += 1
                failure = error_from_rpc(error, url=self.url, timeout_s=deadline.allowed_s)
                delay_s = self.retry.delay_s(failure, attempt=attempt, left_s=deadline.left_s())
                if delay_s is None:
                    raise failure from error
            self.sleep(delay_s)
