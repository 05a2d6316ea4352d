"""Streams of images for code that waits: threads read, send and receive, the caller's thread hands out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic

import grpc
from google.protobuf.message import Message

from clipsr._codecs.stream import Answer, Item, Source
from clipsr._errors import ClipsrError
from clipsr._rpc import errors as call_errors
from clipsr._rpc.lifetime import Lifetime, closed
from clipsr._rpc.retry import RetryPolicy
from clipsr._rpc.window import Window
from clipsr._types import FailedImage

_Call = Any  # grpc has no public type for an iterable call that can be cancelled


class ThreadStream(Generic[Source, Item, Answer]):
    """One run over the images, across as many connections as it takes.

    Everything below `_changed` is shared by the threads and only touched while holding it.

    Args:
        open_call: starts the call with these requests.
        images: what to send; read in a thread of its own, no further ahead than `window` holds.
        window: bookkeeping, fresh, with the messages of the call.
        retry: when to connect again; its attempts count from the last answer.
        idle_timeout_s: longest time without an answer while images wait for one, in seconds.
        url: the address, for errors.
        lifetime: the client's; the stream fails when it ends.
    """

    def __init__(
        self,
        *,
        open_call: Callable[[Iterator[Message]], _Call],
        images: Iterable[Source | FailedImage],
        window: Window[Source, Item, Answer],
        retry: RetryPolicy,
        idle_timeout_s: float,
        url: str,
        lifetime: Lifetime,
    ) -> None:
        self._open_call, self._images = open_call, images
        self._retry, self._idle_timeout_s, self._url = retry, idle_timeout_s, url
        self._lifetime = lifetime
        self._changed = threading.Condition()
        self._window = window
        self._call: _Call | None = None
        self._connection = 0  # threads of an earlier one find that theirs is over
        self._attempt = 0
        self._failure: ClipsrError | None = None
        self._source_error: BaseException | None = None
        self._last_progress_s = (
            0.0  # time.monotonic() of the last answer, or of the first image after all were answered
        )
        self._is_closed = False

    def outcomes(self) -> Iterator[tuple[int, Answer | FailedImage]]:
        """Yield outcomes as they come; closing the iterator ends the stream.

        Raises:
            ClipsrError: the stream failed for good.
            Exception: whatever `images` raised, after the outcomes of the images before it.
        """
        with self._lifetime.notify(self._fail_closed):
            threading.Thread(target=self._read, name="clipsr-read", daemon=True).start()
            try:
                while (outcome := self._next()) is not None:
                    yield outcome
                if self._source_error is not None:
                    raise self._source_error
            finally:
                self._close()

    def _next(self) -> tuple[int, Answer | FailedImage] | None:
        """Return the next outcome, None after the last; connect, and connect again, on the way."""
        with self._changed:
            while True:
                if (outcome := self._window.pop()) is not None:
                    self._changed.notify_all()  # there is room to read
                    return outcome
                if self._window.is_done:
                    return None
                if self._failure is not None:
                    self._recover(self._failure)
                elif self._call is None and self._window.unanswered:
                    self._connect()
                else:
                    self._wait()

    def _wait(self) -> None:
        """Wait until something changes; raise DeadlineError once nothing has for too long."""
        if not self._window.unanswered:
            self._changed.wait()
            return
        left_s = self._left_s()
        if left_s <= 0:
            raise call_errors.no_progress(self._url, timeout_s=self._idle_timeout_s)
        self._changed.wait(left_s)

    def _left_s(self) -> float:
        return self._last_progress_s + self._idle_timeout_s - time.monotonic()

    def _recover(self, failure: ClipsrError) -> None:
        """Wait as long as the failure asks for, then let the next round connect; or raise it."""
        self._attempt += 1
        left_s = self._left_s() if self._window.unanswered else self._idle_timeout_s
        delay_s = self._retry.delay_s(failure, attempt=self._attempt, left_s=left_s)
        if delay_s is None:
            raise failure
        end_s = time.monotonic() + delay_s
        while self._failure is failure and (rest_s := end_s - time.monotonic()) > 0:
            self._changed.wait(rest_s)
        if self._failure is failure:
            self._failure = None
            self._window.rewind()

    def _connect(self) -> None:
        self._connection += 1
        self._call = self._open_call(self._requests(self._connection))
        receive = threading.Thread(
            target=self._receive, args=(self._connection, self._call), name="clipsr-receive", daemon=True
        )
        receive.start()

    def _fail_closed(self) -> None:
        """End the connection, and the stream with what is answered by now: the client is closed."""
        with self._changed:
            self._connection += 1  # its thread has nothing to say about how it ends
            self._failure = closed()
            self._changed.notify_all()

    def _close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._connection += 1
            if self._call is not None:
                self._call.cancel()
            self._changed.notify_all()

    def _read(self) -> None:
        """Read ahead, in a thread of its own, until the images end or the stream is closed."""
        try:
            for source in self._images:
                item = self._window.codec.read(source)
                with self._changed:
                    if not self._window.unanswered:
                        self._last_progress_s = time.monotonic()
                    self._window.add(item)
                    self._changed.notify_all()
                    while not self._window.has_room and not self._is_closed:
                        self._changed.wait()
                    if self._is_closed:
                        return
        except BaseException as error:
            self._source_error = error
        with self._changed:
            self._window.end()
            self._changed.notify_all()

    def _requests(self, connection: int) -> Iterator[Message]:
        """Yield the messages of one connection; gRPC iterates over it in a thread, as fast as the service reads."""
        yield self._window.codec.first
        while True:
            with self._changed:
                while (request := self._take(connection)) is None:
                    if self._window.is_taken or connection != self._connection:
                        return
                    self._changed.wait()
            yield request

    def _take(self, connection: int) -> Message | None:
        return self._window.take() if connection == self._connection else None

    def _receive(self, connection: int, call: _Call) -> None:
        """Take in the answers of one connection, in a thread of its own."""
        failure: ClipsrError | None = None
        try:
            for response in call:
                with self._changed:
                    if connection != self._connection:
                        return
                    self._window.answer(response)
                    self._last_progress_s, self._attempt = time.monotonic(), 0
                    self._changed.notify_all()
        except grpc.RpcError as error:
            failure = call_errors.error_from_rpc(error, url=self._url, timeout_s=self._idle_timeout_s)
            failure.__cause__ = error
        except ClipsrError as error:
            failure = error
            call.cancel()
        with self._changed:
            if connection != self._connection:
                return
            self._connection += 1  # its requests end
            self._call = None
            if failure is None and not (self._window.is_taken and not self._window.unanswered):
                failure = call_errors.end_of_stream(self._url)
            self._failure = failure
            self._changed.notify_all()
