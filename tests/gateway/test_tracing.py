"""Traces, as a real collector receives them."""

from __future__ import annotations

import asyncio
import builtins
from typing import Any

import grpc
import pytest
from opentelemetry.proto.trace.v1 import trace_pb2
from tests.gateway.collector import Collector, attributes, collect

from clipsr_gateway import BackendUnavailableError, ConfigurationError, OperationsConfig
from clipsr_gateway._tracing import OpenTelemetry, outgoing_headers

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{PARENT_ID}-01"


@pytest.fixture
def collector():
    with collect() as running:
        yield running


@pytest.fixture
def headers(backend) -> list[Any]:
    """What requests to the backend would carry."""
    seen: list[Any] = []
    compute = backend.compute

    async def look() -> None:
        seen.append(outgoing_headers())
        await compute()

    backend.compute = look
    return seen


async def traced(start: Any, collector: Collector) -> Any:
    return await start(operations=OperationsConfig(otlp_endpoint=collector.url))


async def test_a_call_joins_its_callers_trace_and_goes_on_into_the_backend(start, collector, headers, request_of, png):
    one = await traced(start, collector)
    metadata = [("traceparent", TRACEPARENT), ("x-request-id", "id-1")]
    await one.stub.Classify(request_of(png(), png(9), labels=["SECRETLABEL", "b"]), metadata=metadata)
    await one.gateway.stop()  # sends what is left
    assert collector.services == {"clipsr-gateway"}
    (call,) = collector.named("Classify")
    assert call.trace_id.hex() == TRACE_ID
    assert call.parent_span_id.hex() == PARENT_ID
    assert call.kind == trace_pb2.Span.SPAN_KIND_SERVER
    assert attributes(call)["clipsr.request_id"] == "id-1"
    assert attributes(call)["rpc.grpc.status_code"] == 0
    assert len(collector.named("queue")) == len(collector.named("inference")) == 2
    inferences = collector.named("inference")
    assert {span.parent_span_id for span in inferences + collector.named("queue")} == {call.span_id}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    sent = {tuple(header["traceparent"].split("-")) for header in headers}
    assert sent == {("00", TRACE_ID, span.span_id.hex(), "01") for span in inferences}
    assert "SECRETLABEL" not in str(collector.spans)


async def test_without_a_parent_each_call_is_its_own_trace_and_errors_show(
    start, collector, backend, request_of, headers
):
    one = await traced(start, collector)
    await one.stub.Classify(request_of())
    backend.error = BackendUnavailableError("h:1", "Triton is away.")
    for request in (request_of(), request_of(label_set="nope")):
        with pytest.raises(grpc.aio.AioRpcError):
            await one.stub.Classify(request, metadata=[("traceparent", "not one")])
    await one.gateway.stop()
    good, away, wrong = collector.named("Classify")
    assert len({span.trace_id for span in (good, away, wrong)}) == 3
    assert [attributes(span)["rpc.grpc.status_code"] for span in (good, away, wrong)] == [0, 14, 3]
    codes = [span.status.code for span in (good, away, wrong)]
    assert codes == [trace_pb2.Status.STATUS_CODE_UNSET, trace_pb2.Status.STATUS_CODE_ERROR, codes[0]]


async def test_a_caller_who_samples_nothing_gets_no_spans(start, collector, headers, request_of):
    one = await traced(start, collector)
    await one.stub.Classify(request_of(), metadata=[("traceparent", TRACEPARENT[:-2] + "00")])
    await one.gateway.stop()
    assert collector.spans == []
    assert headers[0]["traceparent"].endswith("-00")


async def test_traces_are_off_unless_asked_for(start, headers, request_of):
    one = await start()
    await one.stub.Classify(request_of(), metadata=[("traceparent", TRACEPARENT)])
    assert headers == [None]


async def test_a_collector_that_is_away_holds_nothing_up(start, request_of):
    one = await start(operations=OperationsConfig(otlp_endpoint="http://127.0.0.1:1"))
    await asyncio.wait_for(one.stub.Classify(request_of()), 10)


def test_a_wrong_endpoint_and_a_missing_extra_say_what_to_do(monkeypatch):
    with pytest.raises(ConfigurationError, match="--otlp-endpoint"):
        OpenTelemetry("127.0.0.1:4317")
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"clipsr-gateway\[otel\]"):
        OpenTelemetry("http://127.0.0.1:4317")
