"""The Prometheus page of a real gateway, scraped over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import urllib.request
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clipsr.v1 import classifier_pb2, types_pb2, upscaler_pb2
from clipsr_gateway import AdmissionConfig, ListenError, OperationsConfig
from clipsr_gateway._access.keys import KeyLimits, add_key

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


async def scrape(one: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample, by its name and labels."""
    url = f"http://{one.gateway.operations.metrics_address}/metrics"
    page = await asyncio.to_thread(lambda: DIRECT.open(url, timeout=10).read().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def value(samples: dict[Any, float], name: str, **labels: str) -> float:
    return samples[(f"clipsr_gateway_{name}", tuple(sorted(labels.items())))]


async def fails(call: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_calls_items_stages_and_rejections_are_counted(start, tmp_path, request_of, png, until):
    path = tmp_path / "keys.json"
    key = add_key(path, "team-a", limits=KeyLimits(items_per_second=0.01, burst=10))
    one = await start(operations=OperationsConfig(api_keys=path, metrics="127.0.0.1:0"))
    metadata = [("authorization", f"Bearer {key}")]
    await one.stub.Classify(request_of(png(), png(9), b"no image"), metadata=metadata)
    await one.upscaler.Upscale(
        upscaler_pb2.UpscaleRequest(image=types_pb2.Image(content=png()), scale=2), metadata=metadata
    )
    await fails(one.stub.Classify(request_of(label_set="secret"), metadata=metadata))
    await fails(one.stub.Classify(request_of(*[png()] * 9), metadata=metadata))
    await fails(one.stub.Classify(request_of(), metadata=[("authorization", "Bearer guess")]))
    await until(lambda: one.gateway.health.is_serving)
    samples = await scrape(one)
    assert value(samples, "calls_total", method="Classify", code="OK", key="team-a") == 1
    assert value(samples, "calls_total", method="Upscale", code="OK", key="team-a") == 1
    assert value(samples, "calls_total", method="Classify", code="INVALID_ARGUMENT", key="team-a") == 1
    assert value(samples, "calls_total", method="Classify", code="RESOURCE_EXHAUSTED", key="team-a") == 1
    assert value(samples, "calls_total", method="Classify", code="UNAUTHENTICATED", key="") == 1
    assert value(samples, "rejections_total", reason="RATE_EXCEEDED", key="team-a") == 1
    assert value(samples, "rejections_total", reason="API_KEY_INVALID", key="") == 1
    assert value(samples, "items_total", method="Classify", key="team-a") == 3
    assert value(samples, "items_per_call_sum", method="Classify") == 3
    assert value(samples, "call_seconds_count", method="Classify") == 2
    assert value(samples, "refused_call_seconds_count") == 2
    assert value(samples, "stage_seconds_count", stage="inference") == 2 + 1
    assert value(samples, "stage_seconds_count", stage="queue") == 2 + 1
    assert value(samples, "stage_seconds_count", stage="decode") == 1
    assert value(samples, "stage_seconds_count", stage="encode") == 1
    assert value(samples, "calls_in_flight", method="Classify") == 0
    assert value(samples, "queue_length") == 0
    assert value(samples, "serving") == 1
    digest = "sha256:" + "ab" * 32
    assert value(samples, "info", version="0.1.0", model="clipsr-test", digest=digest) == 1
    assert "secret" not in json.dumps([str(sample) for sample in samples])
    assert ("process_resident_memory_bytes", ()) in samples


async def test_what_is_in_progress_shows(start, backend, request_of, png, until):
    backend.hold = asyncio.Event()
    one = await start(max_concurrent=2, operations=OperationsConfig(metrics="127.0.0.1:0"))
    running = asyncio.ensure_future(_classify(one, request_of(*[png()] * 5)))
    await until(lambda: backend.in_flight == 2)
    samples = await scrape(one)
    assert value(samples, "calls_in_flight", method="Classify") == 1
    assert value(samples, "queue_length") == 3
    assert value(samples, "triton_requests_in_flight") == 2
    assert value(samples, "work_units") == pytest.approx(5, abs=0.1)
    assert value(samples, "queued_bytes") > 100
    assert value(samples, "estimated_wait_seconds") > 0
    backend.hold.set()
    await running


async def _classify(one: Any, request: Any) -> Any:
    return await one.stub.Classify(request)


async def test_callers_cannot_make_labels(start, request_of):
    """However odd the calls are, the page has the same series."""
    one = await start(operations=OperationsConfig(metrics="127.0.0.1:0"))
    await one.stub.Classify(request_of(), metadata=[("x-request-id", "made-up"), ("authorization", "Bearer made-up")])
    before = {name for name, _ in await scrape(one)}
    series = len(await scrape(one))
    for odd in ("made-up-1", "made-up-2", "made-up-3"):
        await one.stub.Classify(request_of(labels=(odd, "b")), metadata=[("x-request-id", odd), ("key", odd)])
        await fails(one.channel.unary_unary(f"/clipsr.v1.ClassifierService/{odd}")(b""))
        await fails(one.channel.unary_unary(f"/{odd}/Classify")(b""))
    samples = await scrape(one)
    assert len(samples) == series
    assert {name for name, _ in samples} == before
    assert not re.search("made-up", str(samples))


async def test_connections_that_never_ask_keep_no_scraper_out(start, until):
    """Half-open ones would otherwise take a thread and a descriptor each, for ever."""
    one = await start(operations=OperationsConfig(metrics="127.0.0.1:0"))
    host, _, port = one.gateway.operations.metrics_address.rpartition(":")
    threads = threading.active_count()
    with contextlib.ExitStack() as held:
        for _ in range(100):
            held.enter_context(socket.create_connection((host, int(port)), timeout=30)).send(b"GET /metr")
        assert await scrape(one)
        await until(lambda: threading.active_count() - threads <= 20)


async def test_a_taken_port_is_an_error_or_a_warning(start, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ListenError, match="--metrics"):
            await start(operations=OperationsConfig(metrics=address))
        one = await start(operations=OperationsConfig(metrics=address, is_metrics_optional=True))
    assert one.gateway.operations.metrics_address is None
    assert await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())
    one.gateway.operations.warn("127.0.0.1:1")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == ["no_metrics"]


def test_limits_of_admission_are_checked():
    with pytest.raises(ValueError, match="max_calls"):
        AdmissionConfig(max_calls=0)
