"""What every call shares: a request id, a deadline, one log line, errors turned into statuses, and draining."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file

from clipsr_gateway import _status
from clipsr_gateway._logs import log_event
from clipsr_gateway.errors import GatewayError, ShuttingDownError

__all__ = ["Call", "CallGate", "gather_or_cancel"]

_T = TypeVar("_T")

_REQUEST_ID_KEY = "x-request-id"
_STATUS_KEY = "grpc-status-details-bin"

# A caller's id goes into logs as it is, so it must be short and plain.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Call:
    """One call in progress.

    Attributes:
        request_id: the caller's `x-request-id`, or a new one.
        fields: what the handler adds to the log line.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.request_id = _request_id(context)
        self.fields: dict[str, object] = {}
        self._context = context

    def time_remaining_s(self) -> float | None:
        """Returns the seconds left until the caller's deadline, 0 when it has passed; None if there is none."""
        return cast("float | None", self._context.time_remaining())  # grpcio's annotation forgets the None

    def is_past_deadline(self) -> bool:
        """Says whether the caller's deadline has passed."""
        return self.time_remaining_s() == 0


class CallGate:
    """Lets calls in, counts them, and can wait until all have left.

    Attributes:
        draining: set from the moment on that no new call is let in; streams then stop reading.
    """

    def __init__(self) -> None:
        self.draining = asyncio.Event()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(
        self,
        method: str,
        context: grpc.aio.ServicerContext[Any, Any],
        handler: Callable[[Call], Awaitable[_T]],
    ) -> _T:
        """Runs a handler; its GatewayErrors become statuses, anything else INTERNAL with the traceback in the log."""
        call = Call(context)
        started_s = time.perf_counter()
        self._in_flight += 1
        self._idle.clear()
        code = "OK"
        try:
            answer = await self._answer(handler, call)
            if not isinstance(answer, status_pb2.Status):
                context.set_trailing_metadata(((_REQUEST_ID_KEY, call.request_id),))
                return answer
            code = _CODES[answer.code].name
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if call.is_past_deadline() else "CANCELLED"
            raise
        finally:
            latency_ms = round((time.perf_counter() - started_s) * 1000, 3)
            fields = {"method": method, "request_id": call.request_id, "code": code, "latency_ms": latency_ms}
            log_event("call", fields | call.fields)
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
        metadata = ((_REQUEST_ID_KEY, call.request_id), (_STATUS_KEY, answer.SerializeToString()))
        await context.abort(_CODES[answer.code], answer.message, metadata)

    async def drain(self, *, timeout_s: float) -> bool:
        """Refuses new calls and waits for those in flight.

        Returns:
            Whether all of them finished within `timeout_s`.
        """
        self.draining.set()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def _answer(self, handler: Callable[[Call], Awaitable[_T]], call: Call) -> _T | status_pb2.Status:
        try:
            if self.draining.is_set():
                raise ShuttingDownError("This server is shutting down; retry, and the call reaches another one.")
            return await handler(call)
        except GatewayError as error:
            return _status.of_error(error, call.request_id)
        except Exception as error:
            log_event("fault", {"request_id": call.request_id}, level=logging.ERROR, error=error)
            return _status.internal(call.request_id)


async def gather_or_cancel(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Awaits all; the first exception, or a cancellation from outside, cancels the rest (asyncio.gather does not)."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == _REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
