"""Streams of images for asyncio: ThreadStream's twin, with tasks for threads.

It differs in one thing. When the service ends a call while grpc.aio is writing to it, grpc.aio replaces the status that
the service sent by one of its own (https://github.com/grpc/grpc/issues/36066), and why the call ended is lost. The next
connection therefore sends its configuration and then listens for a moment before it sends images: whatever ended the
last call mostly ends this one, too, and now its status arrives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Generic

import grpc
from google.protobuf.message import Message

from clipsr._codecs.stream import Answer, Item, Source
from clipsr._errors import ClipsrError, ServiceError
from clipsr._rpc import errors as call_errors
from clipsr._rpc.lifetime import Lifetime, closed
from clipsr._rpc.retry import RetryPolicy
from clipsr._rpc.window import Window
from clipsr._types import FailedImage

_LOST_STATUS = "Internal error from Core"  # grpc.aio's own words, see above
_LISTEN_S = 1.0  # a service that refuses a stream does so as soon as it has read the configuration

_Call = Any  # grpc.aio.StreamStreamCall, which has no type parameters at run time


class TaskStream(Generic[Source, Item, Answer]):
    """One run over the images, across as many connections as it takes; arguments as ThreadStream's.

    An ordinary iterable is read in a thread, an asynchronous one in the event loop.
    """

    def __init__(
        self,
        *,
        open_call: Callable[[AsyncIterator[Message]], _Call],
        images: Iterable[Source | FailedImage] | AsyncIterable[Source | FailedImage],
        window: Window[Source, Item, Answer],
        retry: RetryPolicy,
        idle_timeout_s: float,
        url: str,
        lifetime: Lifetime,
    ) -> None:
        self._open_call, self._images = open_call, images
        self._retry, self._idle_timeout_s, self._url = retry, idle_timeout_s, url
        self._lifetime = lifetime
        self._changed = _Notifier()
        self._window = window
        self._call: _Call | None = None
        self._connection = 0  # tasks of an earlier one find that theirs is over
        self._attempt = 0
        self._failure: ClipsrError | None = None
        self._source_error: BaseException | None = None
        self._last_progress_s = (
            0.0  # time.monotonic() of the last answer, or of the first image after all were answered
        )
        self._is_listening = False  # before the first image of a connection, until an answer comes
        self._tasks: set[asyncio.Task[None]] = set()

    async def outcomes(self) -> AsyncIterator[tuple[int, Answer | FailedImage]]:
        """Yield outcomes as they come; as ThreadStream.outcomes()."""
        with self._lifetime.notify(self._fail_closed):
            self._start(self._read())
            try:
                while (outcome := await self._next()) is not None:
                    yield outcome
                if self._source_error is not None:
                    raise self._source_error
            finally:
                await self._close()

    async def _next(self) -> tuple[int, Answer | FailedImage] | None:
        while True:
            if (outcome := self._window.pop()) is not None:
                self._changed.notify()  # there is room to read
                return outcome
            if self._window.is_done:
                return None
            if self._failure is not None:
                await self._recover(self._failure)
            elif self._call is None and self._window.unanswered:
                self._connect()
            else:
                await self._wait()

    async def _wait(self) -> None:
        if not self._window.unanswered:
            await self._changed.wait()
            return
        left_s = self._left_s()
        if left_s <= 0:
            raise call_errors.no_progress(self._url, timeout_s=self._idle_timeout_s)
        await self._changed.wait(left_s)

    def _left_s(self) -> float:
        return self._last_progress_s + self._idle_timeout_s - time.monotonic()

    async def _recover(self, failure: ClipsrError) -> None:
        self._attempt += 1
        left_s = self._left_s() if self._window.unanswered else self._idle_timeout_s
        delay_s = self._retry.delay_s(failure, attempt=self._attempt, left_s=left_s)
        if delay_s is None:
            raise failure
        end_s = time.monotonic() + delay_s
        while self._failure is failure and (rest_s := end_s - time.monotonic()) > 0:
            await self._changed.wait(rest_s)
        if self._failure is failure:
            self._failure = None
            self._window.rewind()

    def _connect(self) -> None:
        self._connection += 1
        self._call = self._open_call(self._requests(self._connection))
        self._start(self._receive(self._connection, self._call))

    def _start(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fail_closed(self) -> None:
        """End the connection, and the stream with what is answered by now: the client is closed."""
        self._end_connection(closed())

    async def _close(self) -> None:
        self._end_connection(None)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        """Read ahead until the images end."""
        try:
            async for item in self._read_all():
                if not self._window.unanswered:
                    self._last_progress_s = time.monotonic()
                self._window.add(item)
                self._changed.notify()
                while not self._window.has_room:
                    await self._changed.wait()
        except Exception as error:
            self._source_error = error
        self._window.end()
        self._changed.notify()

    async def _read_all(self) -> AsyncIterator[Item | FailedImage]:
        read = self._window.codec.read
        if isinstance(self._images, AsyncIterable):
            async for source in self._images:
                yield await asyncio.to_thread(read, source)
            return
        iterator = iter(self._images)
        while (item := await asyncio.to_thread(self._read_next, iterator)) is not None:
            yield item

    def _read_next(self, images: Iterator[Source | FailedImage]) -> Item | FailedImage | None:
        for source in images:
            return self._window.codec.read(source)
        return None

    async def _requests(self, connection: int) -> AsyncIterator[Message]:
        """Yield the messages of one connection; gRPC iterates over it in a task, as fast as the service reads."""
        yield self._window.codec.first
        if self._is_listening:
            await self._await_rejection(connection)
        while connection == self._connection:
            request = self._window.take()
            if request is not None:
                yield request
            elif self._window.is_taken:
                return
            else:
                await self._changed.wait()

    async def _await_rejection(self, connection: int) -> None:
        """Wait until the connection ends, or for as long as it takes one to be refused."""
        end_s = time.monotonic() + _LISTEN_S
        while connection == self._connection and (left_s := end_s - time.monotonic()) > 0:
            await self._changed.wait(left_s)
        if connection == self._connection and self._retry.retries == 0:  # it was opened to listen, no more
            self._end_connection(call_errors.end_of_stream(self._url))

    async def _receive(self, connection: int, call: _Call) -> None:
        """Take in the answers of one connection."""
        failure: ClipsrError | None = None
        try:
            async for response in call:
                if connection != self._connection:
                    return
                self._window.answer(response)
                self._last_progress_s, self._attempt, self._is_listening = time.monotonic(), 0, False
                self._changed.notify()
        except grpc.RpcError as error:
            failure = call_errors.error_from_rpc(error, url=self._url, timeout_s=self._idle_timeout_s)
            failure.__cause__ = error
        except ClipsrError as error:
            failure = error
        if connection != self._connection:
            return
        is_lost = isinstance(failure, ServiceError) and _LOST_STATUS in str(failure)
        if is_lost or (failure is None and not (self._window.is_taken and not self._window.unanswered)):
            failure = call_errors.end_of_stream(self._url)
        if is_lost and not self._is_listening:  # not an attempt of its own: the next one finds out
            failure = None
            self._window.rewind()
        self._is_listening = self._is_listening or is_lost
        self._end_connection(failure)

    def _end_connection(self, failure: ClipsrError | None) -> None:
        self._connection += 1  # its requests end
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._failure = failure
        self._changed.notify()


class _Notifier:
    """Wakes every waiting task of one event loop. Between a look at the state and wait() nothing may be awaited."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return at the next notify(), or when the time is up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait([future], timeout=timeout_s)
        finally:
            self._waiting.discard(future)
