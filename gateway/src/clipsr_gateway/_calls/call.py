"""What every call shares: a request id, a deadline, one log line, errors turned into statuses, and draining."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from typing import Any, NoReturn, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file

from clipsr_gateway._access.callers import Caller
from clipsr_gateway._admission.controller import Admission, WorkLedger
from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._calls import status
from clipsr_gateway._logs import log_event
from clipsr_gateway._tracing import NO_TRACING, Tracing
from clipsr_gateway.errors import GatewayError, ShuttingDownError

_T = TypeVar("_T")

_REQUEST_ID_KEY = "x-request-id"
_STATUS_KEY = "grpc-status-details-bin"

# A caller's id goes into logs as it is, so it must be short and plain.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


class Call:
    """One call in progress.

    Attributes:
        method: its name, without the service's.
        request_id: the caller's `x-request-id`, or a new one.
        fields: what the handler adds to the log line.
        caller: who calls; None where no API key is asked for, or before it was looked at.
        items: images or texts that were taken on.
        stages_s: seconds that parts of the work took, by the name of the stage, as often as it ran.
        reason: why it failed, as google.rpc.ErrorInfo says; empty if it did not.
    """

    def __init__(self, method: str, context: grpc.aio.ServicerContext[Any, Any], tracing: Tracing = NO_TRACING) -> None:
        self.method = method
        self.request_id = _request_id(context)
        self.fields: dict[str, object] = {}
        self.caller: Caller | None = None
        self.items = 0
        self.stages_s: defaultdict[str, list[float]] = defaultdict(list)
        self.reason = ""
        self._context = context
        self._tracing = tracing
        self._admission: Admission | None = None
        self._ledger: WorkLedger | None = None

    @property
    def ledger(self) -> WorkLedger | None:
        """The work that was taken on; None outside of a server."""
        return self._ledger

    def belongs_to(self, context: grpc.aio.ServicerContext[Any, Any]) -> bool:
        """Say whether this is the call of that context."""
        return self._context is context

    def bind(self, admission: Admission, ledger: WorkLedger) -> None:
        """From now on work counts against what the server takes on."""
        self._admission, self._ledger = admission, ledger

    def admit(self, *, items: int, units: float) -> None:
        """Take on all work of a call, or none; before anything is computed.

        Args:
            items: images or texts, which count against the caller's rate.
            units: what they cost; see image_units.

        Raises:
            LimitedError: too much for the caller's key, or for the server.
        """
        if self._admission and self._ledger:
            self._admission.admit(self._ledger, units, time_remaining_s=self.time_remaining_s())
        if self.caller is not None:
            self.caller.take(items)
        self.items += items

    async def admit_next(self, *, units: float) -> None:
        """Take on one more image of a stream, once the caller's rate allows it: a stream slows down."""
        while self.caller is not None and (wait_s := self.caller.time_until(1)):
            await asyncio.sleep(wait_s)
        if self._ledger:
            self._ledger.units += units
        self.items += 1

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Measure a part of the work, also one that fails, and shows it in the call's trace."""
        began_s = time.perf_counter()
        with self._tracing.stage(name):
            try:
                yield
            finally:
                self.stages_s[name].append(time.perf_counter() - began_s)

    @asynccontextmanager
    async def acquire_slot(self, slots: FairSlots, units: float = 1.0) -> AsyncGenerator[None]:
        """Wait until a request may go to Triton; one of many units lets others pass."""
        async with AsyncExitStack() as places:
            with self.stage("queue"):
                if self._admission:
                    await places.enter_async_context(self._admission.heavy_slot(units))
                await places.enter_async_context(slots.acquire(self))
            yield

    @contextmanager
    def inference(self, units: float) -> Generator[None]:
        """Measure one request in Triton that does so many units of the work that was taken on."""
        measured = self._admission.work(self._ledger, units) if self._admission else nullcontext()
        with self.stage("inference"), measured:
            yield

    def time_remaining_s(self) -> float | None:
        """Return the seconds left until the caller's deadline, 0 when it has passed; None if there is none."""
        return cast("float | None", self._context.time_remaining())  # grpcio's annotation forgets the None

    def is_past_deadline(self) -> bool:
        """Say whether the caller's deadline has passed."""
        return self.time_remaining_s() == 0


class CallObserver(Protocol):
    """Hears of every call."""

    def call_began(self, call: Call) -> None:
        """Note that a call came in."""
        ...

    def call_ended(self, call: Call, *, code: str, latency_s: float) -> None:
        """Note that a call ended with a status code, by its name."""
        ...


# The call that the running task belongs to, tasks it started included.
_CURRENT: contextvars.ContextVar[Call | None] = contextvars.ContextVar("clipsr_gateway_call", default=None)


def current_call() -> Call | None:
    """Return the call that is being worked on here; None outside of calls, for the canary."""
    return _CURRENT.get()


class CallRunner:
    """Lets calls in, counts them, and can wait until all have left.

    Args:
        observers: hear of every call.
        tracing: follows calls from service to service.

    Attributes:
        draining: set once new calls are refused; streams end themselves then.
    """

    def __init__(self, observers: Sequence[CallObserver] = (), *, tracing: Tracing = NO_TRACING) -> None:
        self._observers = tuple(observers)
        self._tracing = tracing
        self._in_flight = 0
        self.draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Call in progress."""
        return self._in_flight

    async def run(
        self,
        method: str,
        context: grpc.aio.ServicerContext[Any, Any],
        handler: Callable[[Call], Awaitable[_T]],
    ) -> _T:
        """Run a handler; its GatewayErrors become statuses, anything else INTERNAL with the traceback in the log.

        A call that is let in already, at the server's entrance, is not let in again by its service.
        """
        if (current := _CURRENT.get()) and current.belongs_to(context):
            return await handler(current)
        call = Call(method, context, self._tracing)
        token = _CURRENT.set(call)
        for observer in self._observers:
            observer.call_began(call)
        started_s = time.perf_counter()
        self._in_flight += 1
        self._idle.clear()
        code = "OK"
        try:
            with self._tracing.call(call.method, call.request_id, context.invocation_metadata()) as span:
                answer = await self._answer(handler, call)
                span.ends(_CODES[answer.code].name if isinstance(answer, status_pb2.Status) else "OK")
            if not isinstance(answer, status_pb2.Status):
                context.set_trailing_metadata(((_REQUEST_ID_KEY, call.request_id),))
                return answer
            code, call.reason = _CODES[answer.code].name, status.read_reason(answer)
        except asyncio.CancelledError:
            code = "DEADLINE_EXCEEDED" if call.is_past_deadline() else "CANCELLED"
            raise
        finally:
            latency_s = time.perf_counter() - started_s
            log_event("call", _log_fields(call, code, latency_s))
            for observer in self._observers:
                observer.call_ended(call, code=code, latency_s=latency_s)
            _CURRENT.reset(token)
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()
        metadata = ((_REQUEST_ID_KEY, call.request_id), (_STATUS_KEY, answer.SerializeToString()))
        await context.abort(_CODES[answer.code], answer.message, metadata)

    async def refuse(self, method: str, context: grpc.aio.ServicerContext[Any, Any], error: GatewayError) -> NoReturn:
        """Answer a call that is not let in at all."""

        async def handle(call: Call) -> None:
            raise error

        await self.run(method, context, handle)
        raise AssertionError("an aborted call has ended")

    async def drain(self, *, timeout_s: float) -> bool:
        """Refuse new calls and waits for those in flight.

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
            return status.status_from_error(error, call.request_id)
        except Exception as error:
            log_event("fault", {"request_id": call.request_id}, level=logging.ERROR, error=error)
            return status.internal(call.request_id)


async def gather_or_cancel(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Await all; the first exception, or a cancellation from outside, cancels the rest (asyncio.gather does not)."""
    coroutines = list(work)
    if len(coroutines) == 1:  # as most calls have one image: no task for it
        return [await coroutines[0]]
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _log_fields(call: Call, code: str, latency_s: float) -> dict[str, object]:
    fields: dict[str, object] = {"method": call.method, "request_id": call.request_id, "code": code}
    if call.reason:
        fields["reason"] = call.reason
    fields["latency_ms"] = round(latency_s * 1000, 3)
    for stage, seconds in call.stages_s.items():
        fields[f"{stage}_ms"] = round(max(seconds) * 1000, 3)  # the longest of all items
    return fields | call.fields


def _request_id(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == _REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return uuid.uuid4().hex
