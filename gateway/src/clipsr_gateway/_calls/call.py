"""What every call shares: a request id, a deadline, one log line, errors turned into statuses, and draining."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import re
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file

from clipsr.v1 import types_pb2
from clipsr_gateway._access.callers import Caller
from clipsr_gateway._admission.controller import Admission, WorkLedger, is_heavy
from clipsr_gateway._admission.hold import Hold
from clipsr_gateway._calls import status
from clipsr_gateway._logs import log_event
from clipsr_gateway._timeout import wait_at_most
from clipsr_gateway._tracing import NO_TRACING, Tracing
from clipsr_gateway.errors import BackendFaultError, DeadlineExceededError, GatewayError, ShuttingDownError

_T = TypeVar("_T")

_REQUEST_ID_KEY = "x-request-id"

# A caller's id goes into logs as it is, so it must be short and plain.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

# A caller's clock runs out before ours does, which began when the call had arrived: its cancellation comes first.
_DEADLINE_SLACK_S = 0.25

# Between the two events of one cancelled call, which gRPC's poller hands over one after the other.
_CANCELLATION_S = 0.01

CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A slot in Triton.

    Attributes:
        timing: waiting and computing; complete when the turn has ended.
        timeout_s: for the request; None where its call may end before it does.
        hold: keeps the slot of a heavy request until Triton is done with it; None for others, which take no time.
    """

    timing: types_pb2.Timing
    timeout_s: float | None
    hold: Hold | None

    async def infer(self, request: Coroutine[Any, Any, _T]) -> _T:
        """Await a request to Triton.

        Triton cannot interrupt a model. Where a request is heavy, its call may be cancelled, and the slot stays taken
        until the answer is there, so that callers who give up and come back do not keep all instances busy.
        """
        return await (request if self.hold is None else self.hold.finish(request))


class Call:
    """One call in progress.

    Args:
        method: its name, without the service's.
        context: gRPC's.
        admission: admission control, which owns the slots.
        draining: set when the server shuts down.
        tracing: follows its stages.

    Attributes:
        method: its name, without the service's.
        request_id: the caller's `x-request-id`, or a new one.
        draining: set when the server shuts down.
        fields: what the handler adds to the log line.
        caller: who calls; None where no API key is asked for, or before authentication.
        ledger: work that was admitted and is not done.
        items: images or texts that were admitted.
        stages_s: seconds that parts of the work took, by the name of the stage, as often as it ran.
        code: the status code it ends with, by its name.
        reason: why it failed, as google.rpc.ErrorInfo says; empty if it did not.
    """

    def __init__(
        self,
        method: str,
        context: grpc.aio.ServicerContext[Any, Any],
        *,
        admission: Admission,
        draining: asyncio.Event,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.method = method
        self.request_id = _request_id(context)
        self.draining = draining
        self.fields: dict[str, object] = {}
        self.caller: Caller | None = None
        self.ledger = WorkLedger()
        self.items = 0
        self.stages_s: defaultdict[str, list[float]] = defaultdict(list)
        self.code = "OK"
        self.reason = ""
        self._context = context
        self._admission = admission
        self._tracing = tracing

    def admit(self, *, items: int, units: float) -> None:
        """Admit all work of a call, or none; before anything is computed.

        Args:
            items: images or texts, which count against the caller's rate.
            units: what they cost; see image_units.

        Raises:
            LimitedError: too much for the caller's key, or for the server.
        """
        self._admission.admit(self.ledger, units, time_remaining_s=self.time_remaining_s())
        if self.caller is not None:
            self.caller.take(items)
        self.items += items

    async def admit_next(self, *, units: float) -> None:
        """Admit one more image of a stream, once the caller's rate limit allows it: a stream slows down."""
        while self.caller is not None and (wait_s := self.caller.time_until(1)):
            await asyncio.sleep(wait_s)
        self.ledger.units += units
        self.items += 1

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """Measure a part of the work, also one that fails, and show it in the call's trace."""
        began_s = time.perf_counter()
        with self._tracing.stage(name):
            try:
                yield
            finally:
                self.stages_s[name].append(time.perf_counter() - began_s)

    @asynccontextmanager
    async def acquire_slot(self, units: float = 1.0, *, nouns: str) -> AsyncGenerator[Turn]:
        """Wait for one of Triton's slots and hold it; a request of many units lets others pass.

        Args:
            units: what the request costs.
            nouns: what the call sends, for the error: images, texts.

        Raises:
            DeadlineExceededError: the slot came too late.
        """
        async with AsyncExitStack() as held:
            with self.stage("queue"):
                slot = self._admission.acquire_slot(self, units, caller=self.caller)
                hold = await held.enter_async_context(slot)
            left_s = self.time_remaining_s()
            if left_s == 0:
                raise DeadlineExceededError(f"The deadline passed before all {nouns} were sent to Triton.")
            is_held = is_heavy(units)
            yield Turn(timing=types_pb2.Timing(), timeout_s=None if is_held else left_s, hold=hold if is_held else None)

    @contextmanager
    def inference(self, units: float) -> Generator[None]:
        """Measure one request in Triton that does so many units of the admitted work."""
        with self.stage("inference"), self._admission.work(self.ledger, units):
            yield

    @asynccontextmanager
    async def infer_in_turn(self, units: float, *, nouns: str, is_bounded: bool = False) -> AsyncGenerator[Turn]:
        """Hold a slot around one request in Triton, and measure it.

        Args:
            units: what the request costs.
            nouns: as in `acquire_slot`.
            is_bounded: whether its size is bounded already, so that it lets no others pass.

        Raises:
            DeadlineExceededError: the slot came too late.
        """
        queued_s = time.perf_counter()
        async with self.acquire_slot(1.0 if is_bounded else units, nouns=nouns) as turn:
            sent_s = time.perf_counter()
            with self.inference(units):
                yield turn
            answered_s = time.perf_counter()
        turn.timing.queue_ms, turn.timing.inference_ms = (sent_s - queued_s) * 1000, (answered_s - sent_s) * 1000

    def status_from_error(self, error: GatewayError, **fields: object) -> status_pb2.Status:
        """Return the status of an error; log a fault of the backend with `fields`, for the status hides its cause."""
        if isinstance(error, BackendFaultError):
            fields = {"request_id": self.request_id, **fields, "cause": str(error)}
            log_event("backend_fault", fields, level=logging.ERROR)
        return status.status_from_error(error, self.request_id)

    def time_remaining_s(self) -> float | None:
        """Return the seconds left until the caller's deadline, 0 when it has passed; None if there is none."""
        return cast("float | None", self._context.time_remaining())  # grpcio's annotation forgets the None


class CallObserver(Protocol):
    """Hears of every call."""

    def call_began(self, call: Call) -> None:
        """Note that a call came in."""
        ...

    def call_ended(self, call: Call, *, latency_s: float) -> None:
        """Note that a call ended."""
        ...


# The call that the running task belongs to, tasks it started included.
_CURRENT: contextvars.ContextVar[Call] = contextvars.ContextVar("clipsr_gateway_call")


def current_call() -> Call:
    """Return the call that the interceptor made for the running handler.

    Raises:
        LookupError: outside of calls.
    """
    return _CURRENT.get()


class CallRunner:
    """Runs calls, counts them, and can wait until all have ended. For the interceptor alone.

    Args:
        admission: admission control.
        observers: hear of every call.
        tracing: follows calls from service to service.

    Attributes:
        draining: set once new calls are refused; streams end themselves then.
    """

    def __init__(
        self, admission: Admission, observers: Sequence[CallObserver] = (), *, tracing: Tracing = NO_TRACING
    ) -> None:
        self._admission = admission
        self._observers = tuple(observers)
        self._tracing = tracing
        self._in_flight = 0
        self.draining = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Calls in progress."""
        return self._in_flight

    @asynccontextmanager
    async def run(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncGenerator[Call]:
        """Make the call of a handler, its `current_call()`, and end it with a status and one log line.

        A GatewayError becomes its status, anything else INTERNAL with the traceback in the log; either way the handler
        is left by gRPC's own AbortError.
        """
        call = Call(method, context, admission=self._admission, draining=self.draining, tracing=self._tracing)
        with self._observed(call):
            failure = None
            with self._tracing.call(call.method, call.request_id, context.invocation_metadata()) as span:
                try:
                    if self.draining.is_set():
                        raise ShuttingDownError(
                            "This server is shutting down; retry, and the call reaches another one."
                        )
                    yield call
                except GatewayError as error:
                    failure = call.status_from_error(error)
                except asyncio.CancelledError:
                    left_s = call.time_remaining_s()
                    is_late = left_s is not None and left_s <= _DEADLINE_SLACK_S
                    call.code = "DEADLINE_EXCEEDED" if is_late else "CANCELLED"
                    span.ends(call.code)
                    raise
                except Exception as error:
                    log_event("fault", {"request_id": call.request_id}, level=logging.ERROR, error=error)
                    failure = status.internal(call.request_id)
                if failure is not None:
                    call.code, call.reason = CODES[failure.code].name, status.read_reason(failure)
                span.ends(call.code)
        request_id = (_REQUEST_ID_KEY, call.request_id)
        if failure is None:
            context.set_trailing_metadata((request_id,))
        else:
            metadata = (request_id, *status.trailing_metadata(failure))
            await context.abort(CODES[failure.code], failure.message, metadata)

    @contextmanager
    def _observed(self, call: Call) -> Generator[None]:
        """Count the call, make it the current one, and write its log line when it ends."""
        token = _CURRENT.set(call)
        for observer in self._observers:
            observer.call_began(call)
        started_s = time.perf_counter()
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            latency_s = time.perf_counter() - started_s
            log_event("call", _log_fields(call, latency_s))
            for observer in self._observers:
                observer.call_ended(call, latency_s=latency_s)
            _CURRENT.reset(token)
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def drain(self, *, timeout_s: float) -> bool:
        """Refuse new calls and wait for those in flight.

        Returns:
            Whether all of them finished within `timeout_s`.
        """
        self.draining.set()
        try:
            await wait_at_most(self._idle.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True


async def let_cancellation_come() -> None:
    """Be cancelled here if the call was: gRPC reports the end of its messages as well, and often first."""
    await asyncio.sleep(_CANCELLATION_S)


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


def _log_fields(call: Call, latency_s: float) -> dict[str, object]:
    fields: dict[str, object] = {"method": call.method, "request_id": call.request_id, "code": call.code}
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
