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
from clipsr_gateway._tracing import OpenTelemetry, TracingConfig, outgoing_headers, read_tracing_config

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
    return await start(operations=OperationsConfig(tracing=TracingConfig(endpoint=collector.url)))


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


ENDPOINT, PROTOCOL = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, None),
        ({ENDPOINT: ""}, None),
        ({ENDPOINT: "http://all:4317"}, "http://all:4317"),
        ({ENDPOINT: "collector:4317"}, "collector:4317"),
        ({ENDPOINT: "http://all:4317", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t:1"}, "http://t:1"),
        ({ENDPOINT: "http://all:4317", PROTOCOL: "grpc"}, "http://all:4317"),
        (
            {ENDPOINT: "http://a:1", PROTOCOL: "http/json", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "http://a:1",
        ),
        ({ENDPOINT: "http://all:4317", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4317"),
        ({ENDPOINT: "http://all:4317", "OTEL_SDK_DISABLED": "TRUE", "OTEL_LOGS_EXPORTER": "otlp"}, None),
        ({PROTOCOL: "http/protobuf"}, None),
    ],
)
def test_the_standard_variables_are_followed(environment, endpoint):
    config = read_tracing_config(None, environment)
    assert (config.endpoint, config.objections) == (endpoint, ())
    assert config.is_optional or "OTEL_SDK_DISABLED" in environment


@pytest.mark.parametrize(
    ("environment", "endpoint", "word"),
    [
        ({ENDPOINT: "http://all:4318", PROTOCOL: "http/protobuf"}, None, "http/protobuf"),
        ({ENDPOINT: "http://all:4317", "OTEL_TRACES_EXPORTER": "console"}, None, "console"),
        ({ENDPOINT: "http://all:4317", "OTEL_METRICS_EXPORTER": "otlp"}, "http://all:4317", "OTEL_METRICS_EXPORTER"),
        ({"OTEL_LOGS_EXPORTER": "console"}, None, "OTEL_LOGS_EXPORTER"),
    ],
)
async def test_what_is_not_supported_is_said_and_stops_nothing(start, request_of, caplog, environment, endpoint, word):
    config = read_tracing_config(None, environment)
    assert config.endpoint == endpoint
    one = await start(operations=OperationsConfig(tracing=config))
    assert (await one.stub.Classify(request_of())).results
    one.gateway.operations.warn("127.0.0.1:1")
    (line,) = [record.fields["cause"] for record in caplog.records if record.getMessage() == "no_traces"]
    assert word in line


async def test_variables_that_opentelemetry_refuses_stop_the_start_only_where_the_option_asks(
    start, request_of, caplog, monkeypatch
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd")
    with pytest.raises(ConfigurationError, match="zstd"):
        await start(operations=OperationsConfig(tracing=read_tracing_config("http://127.0.0.1:1", {})))
    config = read_tracing_config(None, {ENDPOINT: "http://127.0.0.1:1"})
    one = await start(operations=OperationsConfig(tracing=config))
    assert (await one.stub.Classify(request_of())).results
    one.gateway.operations.warn("127.0.0.1:1")
    assert [record for record in caplog.records if record.getMessage() == "no_traces"]


async def test_a_collector_that_is_away_holds_nothing_up(start, request_of):
    one = await start(operations=OperationsConfig(tracing=TracingConfig(endpoint="http://127.0.0.1:1")))
    await asyncio.wait_for(one.stub.Classify(request_of()), 10)


def test_a_wrong_endpoint_and_a_missing_extra_say_what_to_do(monkeypatch):
    with pytest.raises(ConfigurationError, match="--otlp-endpoint"):
        read_tracing_config("127.0.0.1:4317", {})
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"clipsr-gateway\[otel\]"):
        OpenTelemetry("http://127.0.0.1:4317")
