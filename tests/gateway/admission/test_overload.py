"""What happens when more comes than can be done: a backend of fixed speed behind a real gateway.

Statuses and counts are asserted, never times: those are measured by benchmarks/reliability.py on an idle machine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from clipsr_gateway import AdmissionConfig, OperationsConfig

EACH_S = 0.02


class FixedSpeed:
    """Makes a fake backend work on two requests at a time, each in 20 ms: 100 images a second."""

    def __init__(self, backend: Any) -> None:
        self.places = asyncio.Semaphore(2)
        self.backend = backend
        backend.compute = self.compute

    async def compute(self) -> None:
        self.backend.in_flight += 1
        try:
            async with self.places:
                await asyncio.sleep(EACH_S)
        finally:
            self.backend.in_flight -= 1


async def outcome(one: Any, request: Any, timeout_s: float | None = None) -> grpc.aio.AioRpcError | None:
    try:
        await one.stub.Classify(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def test_what_cannot_be_done_in_time_is_refused_before_it_is_read(start, backend, request_of, detailed):
    FixedSpeed(backend)
    one = await start(
        operations=OperationsConfig(admission=AdmissionConfig(max_slowdown=5, latency_floor_s=0, min_calls=4))
    )
    for _ in range(5):
        assert await outcome(one, request_of()) is None
    errors = await asyncio.gather(*(outcome(one, request_of()) for _ in range(200)))
    codes = Counter(error.code() if error else grpc.StatusCode.OK for error in errors)
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes[grpc.StatusCode.OK] >= 4
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] >= 100
    assert len(backend.user_calls()) == 5 + codes[grpc.StatusCode.OK]
    for error in errors:
        if error is not None:
            assert (detailed(error).reason, detailed(error).domain) == ("OVERLOADED", "clipsr")
            assert 0.1 <= detailed(error).retry_s <= 30
    admission = one.gateway.operations.admission
    assert (admission.calls, admission.units, admission.queued_bytes) == (0, 0, 0)
    assert await outcome(one, request_of()) is None


async def test_bulk_calls_share_with_single_ones(start, backend, request_of, png, until):
    """Six callers with fifty images each, and a seventh with one: nobody is refused, and nobody waits for everybody."""
    FixedSpeed(backend)
    one = await start(max_concurrent=4)
    assert await outcome(one, request_of()) is None
    bulk = [asyncio.ensure_future(outcome(one, request_of(*[png()] * 50))) for _ in range(6)]
    await until(lambda: one.gateway.operations.admission.calls == 6)
    assert await outcome(one, request_of()) is None
    assert sum(task.done() for task in bulk) == 0
    assert await asyncio.gather(*bulk) == [None] * 6


async def test_a_deadline_that_cannot_be_met_is_not_waited_for(start, backend, request_of, png, detailed):
    FixedSpeed(backend)
    one = await start(operations=OperationsConfig(admission=AdmissionConfig(min_calls=1)))
    for _ in range(3):
        assert await outcome(one, request_of()) is None
    running = asyncio.ensure_future(outcome(one, request_of(*[png()] * 200)))
    while not backend.in_flight:
        await asyncio.sleep(0.005)
    error = await outcome(one, request_of(*[png()] * 200), timeout_s=2)
    assert error is not None
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "deadline" in detailed(error).message
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_heavy_images_leave_places_for_others(start, backend, request_of, png, until):
    """A hundred images of nine megapixels wait for each other; a small one goes past them all."""
    backend.hold = asyncio.Event()
    one = await start(max_concurrent=4)
    heavy = asyncio.ensure_future(outcome(one, request_of(*[png(3000, 3000, mode="1")] * 100)))
    await until(lambda: backend.in_flight == 1)
    light = asyncio.ensure_future(outcome(one, request_of()))
    await until(lambda: backend.in_flight == 2)
    assert one.gateway.operations.admission.units > 900
    backend.hold.set()
    assert await light is None
    assert await heavy is None


async def test_a_heavy_image_keeps_its_lane_when_its_caller_gives_up(start, backend, request_of, png, until):
    """Triton goes on with what it has begun; callers who give up and come back must not keep all instances busy."""
    backend.hold = asyncio.Event()
    one = await start(max_concurrent=4)
    heavy = request_of(png(3000, 3000, mode="1"))
    for timeout_s in (None, 0.2):
        given_up = asyncio.ensure_future(outcome(one, heavy, timeout_s))
        await until(lambda: backend.in_flight == 1)
        if timeout_s is None:
            given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        await until(lambda: one.gateway.operations.runner.in_flight == 0)
    assert (backend.in_flight, backend.cancelled) == (1, 0)
    waiting = asyncio.ensure_future(outcome(one, heavy))
    await until(lambda: one.gateway.operations.runner.in_flight == 1)
    assert await outcome_of_light(one, backend, request_of, until) is None
    assert len(backend.user_calls()) == 2
    backend.hold.set()
    assert await waiting is None
    await until(lambda: one.gateway.operations.admission.slots.in_use == 0)


async def outcome_of_light(one: Any, backend: Any, request_of: Any, until: Any) -> grpc.aio.AioRpcError | None:
    """What a small image gets while heavy ones are held; it is not held itself."""
    hold, backend.hold = backend.hold, None
    error = await outcome(one, request_of())
    backend.hold = hold
    return error


@pytest.mark.parametrize("method", ["GetModelInfo"])
async def test_what_computes_nothing_is_always_answered(start, backend, request_of, method, until):
    backend.hold = asyncio.Event()
    admission = AdmissionConfig(min_calls=1, max_slowdown=1, latency_floor_s=0)
    one = await start(operations=OperationsConfig(admission=admission))
    running = [asyncio.ensure_future(outcome(one, request_of())) for _ in range(3)]
    await until(lambda: sum(task.done() for task in running) == 2)
    call = one.channel.unary_unary(f"/clipsr.v1.ClassifierService/{method}")
    assert await call(b"")
    backend.hold.set()
    await asyncio.gather(*running)
