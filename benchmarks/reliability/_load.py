"""Calls without retries, and the outcome of each: status, reason, delay, answer.

The loops, the images and the channels are those of `benchmarks.load`; this adds what a promise is judged by.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from benchmarks.load.loops import Ask, arrivals, closed_loop, open_loop
from benchmarks.load.plan import Target
from benchmarks.load.summary import percentile
from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, types_pb2

__all__ = [
    "Caller",
    "Outcome",
    "call",
    "connect",
    "count_codes",
    "first_answer",
    "keep_calling",
    "make_request",
    "metadata",
    "p99_ms",
    "send_at_rate",
]

_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one call.

    Attributes:
        request_id: as sent.
        code: name of the status code.
        reason: of google.rpc.ErrorInfo; empty if there is none.
        message: of the status.
        retry_s: of google.rpc.RetryInfo; None if there is none.
        began_s, latency_s: monotonic time of the start, and how long it took.
        answer: the response, if there is one.
    """

    request_id: str
    code: str
    reason: str = ""
    message: str = ""
    retry_s: float | None = None
    began_s: float
    latency_s: float
    answer: Any = None

    @property
    def is_ok(self) -> bool:
        """Whether the call succeeded."""
        return self.code == "OK"


Caller = Callable[[], Awaitable[Outcome]]
"""Makes one call."""


def metadata(target: Target, request_id: str) -> list[tuple[str, str]]:
    """Return what every call carries."""
    return [("x-request-id", request_id), *target.access.metadata()]


def make_request(images: Sequence[bytes], labels: Sequence[str]) -> classifier_pb2.ClassifyRequest:
    """Return a Classify request; top 1."""
    return classifier_pb2.ClassifyRequest(
        images=[types_pb2.Image(content=content) for content in images],
        options=classifier_pb2.ClassifyOptions(
            label_space=types_pb2.LabelSpace(labels=labels, templates=["a photo of a {}."]), top_k=1
        ),
    )


@asynccontextmanager
async def connect(target: Target, *, connections: int = 1) -> AsyncIterator[list[Any]]:
    """Stubs of ClassifierService, each over a connection of its own."""
    channels = [target.access.open_channel(target.url) for _ in range(connections)]
    try:
        yield [classifier_pb2_grpc.ClassifierServiceStub(channel) for channel in channels]
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def call(method: Any, request: Any, target: Target, *, timeout_s: float) -> Outcome:
    """Make one call; never raises for a status."""
    request_id = uuid.uuid4().hex
    began_s = time.monotonic()
    try:
        answer = await method(request, timeout=timeout_s, metadata=metadata(target, request_id))
    except grpc.aio.AioRpcError as error:
        reason, retry_s = read_details(error)
        return Outcome(
            request_id=request_id,
            code=error.code().name,
            reason=reason,
            message=error.details() or "",
            retry_s=retry_s,
            began_s=began_s,
            latency_s=time.monotonic() - began_s,
        )
    latency_s = time.monotonic() - began_s
    return Outcome(request_id=request_id, code="OK", began_s=began_s, latency_s=latency_s, answer=answer)


def read_details(error: grpc.aio.AioRpcError) -> tuple[str, float | None]:
    """Reason and delay of a status, if it has them."""
    reason, retry_s = "", None
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    reason = info.reason
                elif detail.Unpack(retry):
                    retry_s = retry.retry_delay.ToTimedelta().total_seconds()
    return reason, retry_s


def _recorded(callers: Sequence[Caller], outcomes: list[Outcome]) -> list[Ask]:
    """Return asks for the loops that also keep what came of each call."""

    def recorded(caller: Caller) -> Ask:
        async def ask(_: int) -> str:
            outcome = await caller()
            outcomes.append(outcome)
            return outcome.code

        return ask

    return [recorded(caller) for caller in callers]


async def keep_calling(
    callers: Sequence[Caller], *, seconds: float, clock: Callable[[], float] = time.monotonic
) -> list[Outcome]:
    """Let each caller call again as soon as it is answered; after a failure it pauses."""
    outcomes: list[Outcome] = []
    now_s = clock()
    await closed_loop(_recorded(callers, outcomes), start_s=now_s, end_s=now_s + seconds, clock=clock)
    return outcomes


async def send_at_rate(callers: Sequence[Caller], *, rate: float, seconds: float, seed: int = 0) -> list[Outcome]:
    """Begin calls at random times (Poisson), independent of earlier calls."""
    outcomes: list[Outcome] = []
    times_s = arrivals(rate, seconds, seed)
    await open_loop(_recorded(callers, outcomes), times_s, start_s=time.monotonic())
    return outcomes


async def first_answer(caller: Caller, *, patience_s: float) -> Outcome | None:
    """Call until a call succeeds; None if none does in time."""
    end_s = time.monotonic() + patience_s
    while not (outcome := await caller()).is_ok:
        if time.monotonic() > end_s:
            return None
        await asyncio.sleep(0.1)
    return outcome


def count_codes(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return how often each status came, with its reason."""
    return dict(Counter(f"{outcome.code}/{outcome.reason}" for outcome in outcomes))


def p99_ms(latencies_s: Sequence[float]) -> float:
    """Return the 99th percentile, in milliseconds; 0 for no values."""
    return 1e3 * percentile(sorted(latencies_s), 0.99) if latencies_s else 0.0
