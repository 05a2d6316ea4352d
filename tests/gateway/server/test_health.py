"""grpc.health.v1, reflection, and the life cycle, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from clipsr_gateway import BackendFaultError, Gateway, GatewayConfig, ListenError, Similarities, load_manifest
from clipsr_gateway._images.header import read_header
from clipsr_gateway._server.health import canary_png

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
SERVICES = (
    "",
    "clipsr.v1.ClassifierService",
    "clipsr.v1.EmbeddingService",
    "clipsr.v1.LibraryService",
    "clipsr.v1.RestorerService",
    "clipsr.v1.UpscalerService",
)


async def check(one: Any, service: str = "") -> int:
    return (await one.health.Check(health_pb2.HealthCheckRequest(service=service))).status


async def becomes(one: Any, status: int) -> None:
    async def poll() -> None:
        while await check(one) != status:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), 20)


def watch(one: Any, service: str = "") -> Any:
    return one.health.Watch(health_pb2.HealthCheckRequest(service=service))


async def test_serving_only_after_a_canary_through_both_routes(start, backend):
    backend.ready = False
    one = await start()
    for service in SERVICES:
        assert await check(one, service) == NOT_SERVING
    await asyncio.sleep(0.1)
    assert not backend.calls
    backend.ready = True
    await becomes(one, SERVING)
    for service in SERVICES:
        assert await check(one, service) == SERVING
    assert [call["route"] for call in backend.calls] == ["upscaled", "native"]
    assert read_header(backend.calls[0]["image"], max_pixels=1000).size_hw == (16, 16)


def test_the_canary_is_always_the_same():
    assert canary_png() == canary_png()


async def test_a_service_that_is_not_here(start):
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(one, "nope.Nope")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watched = watch(one, "nope.Nope")
    assert (await watched.read()).status == UNKNOWN
    watched.cancel()


async def test_health_follows_the_backend_both_ways_and_every_watcher_hears(start, backend):
    one = await start()
    await becomes(one, SERVING)
    first, second = watch(one), watch(one, SERVICES[1])
    assert (await first.read()).status == SERVING
    assert (await second.read()).status == SERVING
    leaving = watch(one)
    await leaving.read()
    leaving.cancel()  # a watcher that leaves must not silence the others
    await asyncio.sleep(0.05)
    for ready, status in [(False, NOT_SERVING), (True, SERVING), (False, NOT_SERVING)]:
        backend.ready = ready
        for watched in (first, second):
            assert (await asyncio.wait_for(watched.read(), 20)).status == status
    first.cancel()
    second.cancel()


async def test_a_backend_that_came_back_must_pass_the_canary_again(start, backend):
    one = await start()
    await becomes(one, SERVING)
    backend.ready = False
    await becomes(one, NOT_SERVING)
    before = len(backend.calls)
    backend.ready = True
    await becomes(one, SERVING)
    assert len(backend.calls) == before + 2


class BrokenCanary:
    """A backend that is ready, but whose models are not fit to serve."""

    target = "127.0.0.1:1"

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    async def is_ready(self, *, timeout_s: float) -> bool:
        return True

    def encode_labels(self, *, labels: Any, templates: Any) -> BrokenCanary:
        return self

    async def classify(self, image: bytes, **options: Any) -> Similarities:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def close(self) -> None:
        pass


NAN = np.full(2, np.nan, np.float32)
GOOD = Similarities(cosine=np.zeros(2, np.float32), probability=np.full(2, 0.5, np.float32))


@pytest.mark.parametrize(
    "outcome",
    [
        BackendFaultError("no"),
        RuntimeError("a bug"),
        Similarities(cosine=NAN, probability=NAN),
        Similarities(cosine=np.zeros(1, np.float32), probability=np.ones(1, np.float32)),
    ],
    ids=["fault", "bug", "not finite", "wrong length"],
)
async def test_a_failing_canary_is_not_serving_until_it_passes(start, backend, outcome):
    broken = BrokenCanary(outcome)
    backend.encode_labels = broken.encode_labels
    one = await start(canary_interval_s=0.03)
    await asyncio.sleep(0.15)
    assert await check(one) == NOT_SERVING
    broken.outcome = GOOD
    await becomes(one, SERVING)
    broken.outcome = outcome
    await becomes(one, NOT_SERVING)


async def test_reflection_lists_the_services_and_their_files(start):
    one = await start()
    stub = reflection_pb2_grpc.ServerReflectionStub(one.channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {service.name for service in (await call.read()).list_services_response.service}
    assert names == {
        "clipsr.v1.ClassifierService",
        "clipsr.v1.EmbeddingService",
        "clipsr.v1.LibraryService",
        "clipsr.v1.RestorerService",
        "clipsr.v1.UpscalerService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="clipsr.v1.ClassifierService"))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    call.cancel()


async def test_stop_lets_calls_finish_refuses_new_ones_and_ends_watches(start, backend, request_of, detailed):
    backend.hold = asyncio.Event()
    one = await start(grace_s=5)
    await becomes(one, SERVING)
    watched = watch(one)
    assert (await watched.read()).status == SERVING
    in_flight = asyncio.create_task(_classify(one, request_of()))
    while not backend.in_flight:
        await asyncio.sleep(0.005)
    stopping = asyncio.create_task(one.gateway.stop())
    assert (await watched.read()).status == NOT_SERVING
    assert await watched.read() is grpc.aio.EOF
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of())
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert (detailed(caught.value).reason, detailed(caught.value).retry_s) == ("SHUTTING_DOWN", 1)
    assert not stopping.done()
    backend.hold.set()
    assert (await in_flight).results
    assert await stopping is True
    assert backend.closed


async def test_stop_serves_on_for_the_delay_while_health_says_not_serving(start, backend, request_of, detailed):
    one = await start(shutdown_delay_s=3600)
    await becomes(one, SERVING)
    stopping = asyncio.create_task(one.gateway.stop())
    await becomes(one, NOT_SERVING)
    assert (await one.stub.Classify(request_of())).results
    assert not stopping.done()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stopping
    one.gateway._config = replace(one.gateway._config, shutdown_delay_s=0)  # or the end of the test waits, too


async def test_stop_cuts_what_outlasts_the_grace_period(start, backend, request_of):
    backend.hold = asyncio.Event()
    one = await start(grace_s=0.1)
    in_flight = asyncio.create_task(_classify(one, request_of()))
    while not backend.in_flight:
        await asyncio.sleep(0.005)
    began_s = time.perf_counter()
    assert await one.gateway.stop() is False
    assert time.perf_counter() - began_s < 20
    with pytest.raises(grpc.aio.AioRpcError):
        await in_flight


async def test_a_taken_port_is_an_error(start, backend, repository):
    one = await start()
    config = GatewayConfig(listen=f"127.0.0.1:{one.port}", repository=repository)
    second = Gateway(config, manifest=load_manifest(repository), backend=backend)
    with pytest.raises(ListenError, match=str(one.port)):
        await second.start()
    with contextlib.suppress(Exception):
        await second.stop()


async def _classify(one: Any, request: Any) -> Any:
    return await one.stub.Classify(request)
