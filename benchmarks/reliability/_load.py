"""Callers: many calls at once, without retries, and what came of each."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from PIL import Image

from clipsr.v1 import classifier_pb2, classifier_pb2_grpc, types_pb2

__all__ = [
    "Outcome",
    "Target",
    "call",
    "connect",
    "keep_calling",
    "make_request",
    "noise_image",
    "p99_ms",
    "send_at_rate",
]

_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the service is, and how to be let in.

    Attributes:
        url: HOST:PORT.
        api_key: sent as bearer token; None sends none.
    """

    url: str
    api_key: str | None = None

    def metadata(self, request_id: str) -> list[tuple[str, str]]:
        """Return what every call carries."""
        key = [("authorization", f"Bearer {self.api_key}")] if self.api_key else []
        return [("x-request-id", request_id), *key]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one call.

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
    reason: str
    message: str
    retry_s: float | None
    began_s: float
    latency_s: float
    answer: Any = None

    @property
    def is_ok(self) -> bool:
        """Whether the call succeeded."""
        return self.code == "OK"


def noise_image(side_px: int, *, seed: int = 0, file_format: str = "PNG", height_px: int | None = None) -> bytes:
    """Return an image that compresses badly and is the same for the same seed."""
    generator = random.Random(seed)
    size = (side_px, height_px or side_px)
    small = Image.frombytes("RGB", (16, 16), generator.randbytes(16 * 16 * 3))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, file_format)
    return buffer.getvalue()


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
    options = [*_OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500)]
    channels = [grpc.aio.insecure_channel(target.url, options) for _ in range(connections)]
    try:
        yield [classifier_pb2_grpc.ClassifierServiceStub(channel) for channel in channels]
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def call(method: Any, request: Any, target: Target, *, timeout_s: float) -> Outcome:
    """Make one call; never raises for a status."""
    request_id = uuid.uuid4().hex
    began_s = time.monotonic()
    try:
        answer = await method(request, timeout=timeout_s, metadata=target.metadata(request_id))
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
    return Outcome(
        request_id=request_id,
        code="OK",
        reason="",
        message="",
        retry_s=None,
        began_s=began_s,
        latency_s=time.monotonic() - began_s,
        answer=answer,
    )


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


async def keep_calling(
    ask: Sequence[Callable[[], Awaitable[Outcome]]], *, seconds: float, pause_s: float = 0.05
) -> list[Outcome]:
    """Callers that each ask again as soon as they are answered; after a failure they pause."""
    ends_s = time.monotonic() + seconds
    outcomes: list[Outcome] = []

    async def caller(one: Callable[[], Awaitable[Outcome]]) -> None:
        while time.monotonic() < ends_s:
            outcome = await one()
            outcomes.append(outcome)
            if not outcome.is_ok:
                await asyncio.sleep(pause_s)

    await asyncio.gather(*(caller(one) for one in ask))
    return outcomes


async def send_at_rate(
    ask: Sequence[Callable[[], Awaitable[Outcome]]], *, rate: float, seconds: float
) -> list[Outcome]:
    """Call that begin at a rate, whatever becomes of those before: independent callers."""
    tasks: list[asyncio.Task[Outcome]] = []
    began_s = time.monotonic()
    for number, one in zip(range(int(rate * seconds)), itertools.cycle(ask), strict=False):
        delay_s = began_s + number / rate - time.monotonic()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        tasks.append(asyncio.ensure_future(one()))
    return list(await asyncio.gather(*tasks))


def p99_ms(latencies_s: Sequence[float]) -> float:
    """Return the 99th percentile, in milliseconds; 0 for no values."""
    ordered = sorted(latencies_s)
    return 1000 * ordered[-(-len(ordered) * 99 // 100) - 1] if ordered else 0.0
