"""What every call shares: faults, deadlines, cancellation, bounded concurrency, one log line."""

from __future__ import annotations

import asyncio
import json
import logging

import grpc
import pytest
from tests.gateway.conftest import ask

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway import BackendFaultError, BackendUnavailableError, DeadlineExceededError
from clipsr_gateway._calls import call as call_module
from clipsr_gateway._calls import interceptor


async def test_a_backend_fault_tells_the_log_and_not_the_caller(start, backend, request_of, detailed, caplog):
    backend.error = BackendFaultError("secret path /opt/models")
    one = await start()
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        answer = await one.stub.Classify(request_of(), metadata=[("x-request-id", "abc-1")])
    error = answer.results[0].error
    assert detailed(error).reason == "INTERNAL"
    assert "abc-1" in error.message
    assert "secret" not in str(error)
    faults = [record.fields for record in caplog.records if record.getMessage() == "backend_fault"]
    assert faults == [{"request_id": "abc-1", "image": 0, "cause": "secret path /opt/models"}]


async def test_a_bug_answers_internal_and_logs_the_traceback(start, backend, request_of, detailed, caplog):
    backend.error = KeyError("secret")
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of())
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()
    assert any(record.exc_info for record in caplog.records)


async def test_backend_down_is_unavailable_with_a_delay_and_cancels_the_rest(start, backend, request_of, png, detailed):
    backend.errors[png(9)] = BackendUnavailableError("h:1", "Triton at h:1 does not answer; retry.")
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(png(9), *[png()] * 100), timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    error = detailed(caught.value)
    assert (error.reason, error.retry_s) == ("BACKEND_UNAVAILABLE", 1)
    assert error.message == "Triton at h:1 does not answer; retry."
    assert backend.in_flight == 0
    assert len(backend.user_calls()) < 101


async def test_grpcs_own_retries_wait_as_long_as_retry_info_says(start, backend, request_of, detailed):
    """A client whose service config has a retryPolicy, in any language, is pushed back by trailing metadata."""
    backend.error = BackendUnavailableError("h:1", "Triton at h:1 does not answer; retry.")
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of())
    assert detailed(caught.value).retry_s == 1
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(labels=[]))
    assert "grpc-retry-pushback-ms" not in dict(caught.value.trailing_metadata())


async def test_the_deadline_reaches_the_backend(start, backend, request_of):
    one = await start()
    await one.stub.Classify(request_of(), timeout=7)
    await one.stub.Classify(request_of())
    first, second = backend.user_calls()
    assert 5 < first["timeout_s"] < 7.1  # gRPC rounds the timeout on the wire, upwards
    assert second["timeout_s"] is None


async def test_a_backend_that_meets_the_deadline_answers_deadline_exceeded(start, backend, request_of, detailed):
    backend.error = DeadlineExceededError("The deadline passed while the image was in Triton.")
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of())
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert detailed(caught.value).reason == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("timeout_s", [0.001, 0.2])
async def test_a_missed_deadline_frees_the_backend_and_the_server_lives(
    start, backend, request_of, png, timeout_s, until
):
    backend.hold = asyncio.Event()
    one = await start(max_concurrent=2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(*[png()] * 5), timeout=timeout_s)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: backend.in_flight == 0)
    assert len(backend.user_calls()) <= 2
    backend.hold = None
    assert (await one.stub.Classify(request_of(), timeout=5)).results


async def test_cancelling_a_call_cancels_its_backend_requests(start, backend, request_of, png, caplog, until):
    backend.hold = asyncio.Event()
    one = await start(max_concurrent=3)
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        call = one.stub.Classify(request_of(*[png()] * 5))
        await until(lambda: backend.in_flight == 3)
        call.cancel()
        await until(lambda: backend.in_flight == 0)
        assert backend.cancelled == 3
        assert len(backend.user_calls()) == 3
        await until(lambda: [r for r in caplog.records if getattr(r, "fields", {}).get("code") == "CANCELLED"])


async def test_concurrency_is_bounded_over_all_calls_and_waiting_is_reported(start, backend, request_of, png):
    one = await start(max_concurrent=2)
    answers = await asyncio.gather(*(one.stub.Classify(request_of(*[png()] * 8)) for _ in range(3)))
    assert backend.most_in_flight == 2
    waits = [result.classification.timing.queue_ms for answer in answers for result in answer.results]
    assert max(waits) > 20  # 24 images, two at a time, 5 ms each
    assert min(waits) < 5


async def test_one_log_line_a_call_without_contents(start, backend, request_of, png, caplog):
    one = await start()
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        call = one.stub.Classify(
            request_of(png(), b"SECRETIMAGE", png(99, 99), labels=["SECRETLABEL"]), metadata=[("x-request-id", "id-7")]
        )
        await call
    lines = [record.fields for record in caplog.records if record.getMessage() == "call"]
    assert len(lines) == 1
    assert lines[0].pop("latency_ms") >= lines[0].pop("inference_ms") > 0
    assert lines[0].pop("queue_ms") >= 0
    assert lines[0] == {
        "method": "Classify",
        "request_id": "id-7",
        "code": "OK",
        "images": 3,
        "labels": 1,
        "templates": 1,
        "failed": 1,
        "routes": {"upscaled": 1, "native": 1},
    }
    assert "SECRET" not in json.dumps([str(record.__dict__) for record in caplog.records])
    assert dict(await call.trailing_metadata())["x-request-id"] == "id-7"
    assert {call["request_id"] for call in backend.user_calls()} == {"id-7"}


@pytest.mark.parametrize("given", ["x" * 65, 'quote"', "a b"])
async def test_an_odd_request_id_is_replaced(start, request_of, given):
    one = await start()
    call = one.stub.Classify(request_of(), metadata=[("x-request-id", given)])
    await call
    answered = dict(await call.trailing_metadata())["x-request-id"]
    assert answered != given
    assert len(answered) == 32


class EndsAsCancelled:
    """The messages of a call whose caller went away: gRPC reports their end, and cancels the task some turns later."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def __aiter__(self):
        return self

    async def __anext__(self):
        self.later(asyncio.current_task(), self.turns)
        raise StopAsyncIteration

    def later(self, task, turns):
        loop = asyncio.get_running_loop()
        loop.call_soon(self.later, task, turns - 1) if turns else task.cancel()


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_messages_that_end_by_a_cancellation_are_not_malformed(turns):
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(interceptor._next(EndsAsCancelled(turns), timeout_s=None))


@pytest.mark.parametrize(("timeout_s", "code"), [(None, "CANCELLED"), (3600, "CANCELLED"), (3, "DEADLINE_EXCEEDED")])
async def test_calls_that_are_given_up_are_counted_as_that(start, backend, request_of, until, caplog, timeout_s, code):
    """Also with the few milliseconds that a caller's deadline comes before the server's."""
    backend.hold = asyncio.Event()
    one = await start()
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        given_up = one.stub.Classify(request_of(), timeout=timeout_s)
        await until(lambda: one.gateway.operations.runner.in_flight == 1)
        if code == "CANCELLED":
            given_up.cancel()
        await until(lambda: one.gateway.operations.runner.in_flight == 0)
        await until(lambda: "call" in caplog.messages)
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "call"]
    assert (line["code"], line.get("reason")) == (code, None)
    registry = one.gateway.operations.metrics.registry
    labels = {"method": "Classify", "code": code, "key": ""}
    assert registry.get_sample_value("clipsr_gateway_calls_total", labels) == 1


async def test_a_stream_that_is_given_up_between_images_is_not_ok(start, png, until, caplog, monkeypatch):
    monkeypatch.setattr(call_module, "_CANCELLATION_S", 2.0)  # on a busy machine gRPC's second word comes late
    one = await start()
    labels = types_pb2.LabelSpace(labels=["cat", "dog"])
    options = classifier_pb2.ClassifyStreamRequest(options=classifier_pb2.ClassifyOptions(label_space=labels))
    image = classifier_pb2.StreamImage(index=0, image=types_pb2.Image(content=png()))
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        call = await ask(one.stub.ClassifyStream, [options, classifier_pb2.ClassifyStreamRequest(image=image)])
        assert (await call.read()).result.HasField("classification")
        call.cancel()
        await until(lambda: one.gateway.operations.runner.in_flight == 0)
        await until(lambda: "call" in caplog.messages)
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "call"]
    assert line["code"] == "CANCELLED"
