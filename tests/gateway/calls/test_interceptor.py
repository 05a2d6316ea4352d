"""Who is let in, over a real socket: keys, rates, calls at once, bytes, and that nothing else happens before."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.gateway.conftest import ask

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway._access.keys import KeyLimits, add_key
from clipsr_gateway._admission.controller import AdmissionConfig
from clipsr_gateway._server.operations import OperationsConfig


@pytest.fixture
def keys(tmp_path):
    """Path of a key file."""
    return tmp_path / "api-keys.json"


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def lines(caplog: pytest.LogCaptureFixture, event: str = "call") -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == event]


async def test_without_a_key_file_nobody_is_asked(start, request_of):
    one = await start()
    info = await one.stub.GetModelInfo(classifier_pb2.GetModelInfoRequest())
    assert not info.model_info.limits.HasField("caller")
    assert (await one.stub.Classify(request_of())).results


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ([], "API_KEY_MISSING"),
        ([("authorization", "Bearer clipsr_wrong-key-of-somebody")], "API_KEY_INVALID"),
        ([("authorization", "Basic Zm9vOmJhcg==")], "API_KEY_INVALID"),
        ([("authorization", "Bearer")], "API_KEY_INVALID"),
        ([("authorization", "")], "API_KEY_INVALID"),
        ([("authorization", "Bearer " + "x" * 5000)], "API_KEY_INVALID"),
    ],
)
async def test_no_good_key_no_work(start, backend, keys, request_of, detailed, caplog, metadata, reason):
    add_key(keys, "team-a", limits=None)
    one = await start(operations=OperationsConfig(api_keys=keys))
    with caplog.at_level(logging.DEBUG):
        error = await refused(one.stub.Classify(request_of(), metadata=metadata))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert detailed(error).reason == reason
    assert detailed(error).domain == "clipsr"
    assert not backend.user_calls()
    assert not [labels for labels, _ in backend.prepared if labels == ("cat", "dog")]
    (line,) = lines(caplog)
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert (line["method"], line["code"], line["reason"]) == ("Classify", "UNAUTHENTICATED", reason)
    assert "wrong-key" not in json.dumps([str(record.__dict__) for record in caplog.records])


async def test_a_message_without_a_key_is_not_even_parsed(start, keys, detailed):
    add_key(keys, "team-a", limits=None)
    one = await start(operations=OperationsConfig(api_keys=keys))
    garbage = one.channel.unary_unary("/clipsr.v1.ClassifierService/Classify")
    for size in (10, 30 * 1024 * 1024):
        error = await refused(garbage(b"\xff" * size))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert detailed(error).reason == "API_KEY_MISSING"


async def test_a_message_that_is_none_is_the_callers_fault(start, detailed, caplog):
    one = await start()
    garbage = one.channel.unary_unary("/clipsr.v1.ClassifierService/Classify")
    for content in (b"\xff" * 10, b"\xff" * 1024 * 1024):
        error = await refused(garbage(content))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert detailed(error).reason == "MESSAGE_MALFORMED"
    assert {line["reason"] for line in lines(caplog)} <= {"MESSAGE_MALFORMED"}
    nothing = one.channel.stream_unary("/clipsr.v1.ClassifierService/Classify")
    error = await refused(nothing(iter(())))
    assert detailed(error).reason == "MESSAGE_MALFORMED"
    unknown = one.channel.unary_unary("/clipsr.v1.ClassifierService/Nope")
    assert (await refused(unknown(b""))).code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_broken_stream_message_is_the_callers_fault(start, detailed):
    one = await start()
    garbage = one.channel.stream_stream("/clipsr.v1.ClassifierService/ClassifyStream")
    call = await ask(garbage, [b"\xff" * 10])
    error = await refused(call.read())
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert detailed(error).reason == "MESSAGE_MALFORMED"


async def test_health_is_open_and_reflection_is_not(start, keys):
    key = add_key(keys, "team-a", limits=None)
    one = await start(operations=OperationsConfig(api_keys=keys))
    await one.health.Check(health_pb2.HealthCheckRequest())
    reflection = reflection_pb2_grpc.ServerReflectionStub(one.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    error = await refused(reflection.ServerReflectionInfo().read())
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    answer = await reflection.ServerReflectionInfo(iter([question]), metadata=bearer(key)).read()
    assert answer.list_services_response.service


async def test_a_good_key_is_named_and_never_shown(start, backend, keys, request_of, png, caplog):
    key = add_key(keys, "team-a", limits=KeyLimits(items_per_second=100, burst=50, max_concurrent_calls=4))
    one = await start(operations=OperationsConfig(api_keys=keys))
    with caplog.at_level(logging.DEBUG):
        for scheme in ("Bearer", "bearer", "BEARER "):
            answer = await one.stub.Classify(request_of(), metadata=[("authorization", f"{scheme} {key}")])
            assert answer.results
        await refused(one.stub.Classify(request_of(label_set="nope"), metadata=bearer(key)))
        await one.stub.Classify(request_of(b"no image", png()), metadata=bearer(key))
        await refused(one.stub.Classify(request_of(), metadata=bearer(key[:-1])))
        request = classifier_pb2.GetModelInfoRequest()
        info = await one.stub.GetModelInfo(request, metadata=bearer(key))
    limits = info.model_info.limits.caller
    assert (limits.items_per_second, limits.burst, limits.max_concurrent_calls) == (100, 50, 4)
    assert {line.get("key") for line in lines(caplog)} == {"team-a", None}
    logged = json.dumps([str(record.__dict__) for record in caplog.records])
    assert "team-a" in logged
    assert key.removeprefix("clipsr_")[:20] not in logged


async def test_items_beyond_the_rate_wait(start, backend, keys, request_of, png, detailed, caplog):
    slow = add_key(keys, "slow", limits=KeyLimits(items_per_second=0.01, burst=3))
    free = add_key(keys, "free", limits=None)
    one = await start(operations=OperationsConfig(api_keys=keys))
    await one.stub.Classify(request_of(png(), png(9)), metadata=bearer(slow))
    before = len(backend.user_calls())
    error = await refused(one.stub.Classify(request_of(png(), png(9)), metadata=bearer(slow)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detailed(error).reason == "RATE_EXCEEDED"
    assert 50 < detailed(error).retry_s <= 100
    assert len(backend.user_calls()) == before
    await one.stub.Classify(request_of(png()), metadata=bearer(slow))
    await one.stub.Classify(request_of(png(), png(9), png(7)), metadata=bearer(free))
    rejected = [line for line in lines(caplog) if line["code"] == "RESOURCE_EXHAUSTED"]
    assert [line["key"] for line in rejected] == (["slow"] if rejected else [])


async def test_a_stream_beyond_the_rate_slows_down_and_loses_nothing(start, keys, png):
    key = add_key(keys, "team-a", limits=KeyLimits(items_per_second=50, burst=1))
    one = await start(operations=OperationsConfig(api_keys=keys))
    labels = types_pb2.LabelSpace(labels=["cat", "dog"])
    messages = [classifier_pb2.ClassifyStreamRequest(options=classifier_pb2.ClassifyOptions(label_space=labels))]
    for index in range(6):
        image = classifier_pb2.StreamImage(index=index, image=types_pb2.Image(content=png()))
        messages.append(classifier_pb2.ClassifyStreamRequest(image=image))
    began_s = time.monotonic()
    call = one.stub.ClassifyStream(iter(messages), metadata=bearer(key))
    answers = [answer async for answer in call]
    assert sorted(answer.index for answer in answers) == list(range(6))
    assert all(answer.result.HasField("classification") for answer in answers)
    assert time.monotonic() - began_s >= 5 / 50
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.ClassifyStream().read()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_calls_beyond_the_limit_are_refused_at_once(start, backend, keys, request_of, detailed, until):
    key = add_key(keys, "team-a", limits=KeyLimits(max_concurrent_calls=2))
    other = add_key(keys, "team-b", limits=KeyLimits(max_concurrent_calls=1))
    one = await start(operations=OperationsConfig(api_keys=keys))
    backend.hold = asyncio.Event()
    running = [asyncio.ensure_future(_classify(one, request_of(), key)) for _ in range(2)]
    await until(lambda: backend.in_flight == 2)
    error = await refused(one.stub.Classify(request_of(), metadata=bearer(key)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (detailed(error).reason, detailed(error).retry_s) == ("TOO_MANY_CALLS", 0.5)
    running.append(asyncio.ensure_future(_classify(one, request_of(), other)))
    await until(lambda: backend.in_flight == 3)
    backend.hold.set()
    assert all(answer.results for answer in await asyncio.gather(*running))
    await one.stub.Classify(request_of(), metadata=bearer(key))


async def _classify(one: Any, request: Any, key: str) -> Any:
    return await one.stub.Classify(request, metadata=bearer(key))


async def test_keys_change_while_calls_are_in_progress(start, backend, keys, request_of, until, caplog):
    old = add_key(keys, "team-a", limits=None)
    one = await start(operations=OperationsConfig(api_keys=keys))
    backend.hold = asyncio.Event()
    running = asyncio.ensure_future(_classify(one, request_of(), old))
    await until(lambda: backend.in_flight == 1)
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        new = add_key(keys, "team-a", limits=None, replaces=True)
        await until(lambda: lines(caplog, "keys_loaded"))
    error = await refused(one.stub.Classify(request_of(), metadata=bearer(old)))
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    backend.hold.set()
    assert (await running).results  # begun with the old key, and not dropped
    assert (await _classify(one, request_of(), new)).results
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        keys.write_text('{"keys": [{"name": "broken"')
        await until(lambda: lines(caplog, "keys_rejected"))
    assert (await _classify(one, request_of(), new)).results
    one.gateway.operations.reload_keys()
    assert len(lines(caplog, "keys_rejected")) == 2


async def test_the_watcher_outlives_any_wrong_file(start, keys, request_of, until, caplog):
    one = await start(operations=OperationsConfig(api_keys=_written(keys, '{"keys": []}')))
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        _written(keys, json.dumps({"keys": [{"name": "a", "sha256": "0" * 64, "burst": float("inf")}]}))
        await until(lambda: lines(caplog, "keys_rejected"))
        keys.unlink()
        key = add_key(keys, "team-a", limits=None)
        await until(lambda: lines(caplog, "keys_loaded"))
    assert (await _classify(one, request_of(), key)).results


def _written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


async def test_load_goes_on_while_keys_rotate(start, keys, request_of):
    """Both keys of a rotation are good at once, so a caller that changes over loses no call."""
    current = add_key(keys, "team-a", limits=None)
    one = await start(operations=OperationsConfig(api_keys=keys))
    codes: list[grpc.StatusCode] = []

    async def call_on() -> None:
        for _ in range(40):
            call = one.stub.Classify(request_of(), metadata=bearer(current))
            codes.append(await call.code())

    callers = [asyncio.ensure_future(call_on()) for _ in range(4)]
    for _ in range(3):
        fresh = add_key(keys, "team-a", limits=None)
        one.gateway.operations.reload_keys()
        current = fresh
        await asyncio.sleep(0.05)
    await asyncio.gather(*callers)
    assert set(codes) == {grpc.StatusCode.OK}


async def test_bytes_of_waiting_requests_are_bounded(start, backend, request_of, detailed, until):
    admission = AdmissionConfig(max_queued_bytes=1024 * 1024)
    one = await start(operations=OperationsConfig(admission=admission))
    backend.hold = asyncio.Event()
    large = request_of()
    large.images[0].content += b"\0" * 600_000
    running = asyncio.ensure_future(_classify(one, large, "none asked for"))
    await until(lambda: backend.in_flight == 1)
    error = await refused(one.stub.Classify(large))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detailed(error).reason == "OVERLOADED"
    assert detailed(error).retry_s > 0
    backend.hold.set()
    await running
    assert one.gateway.operations.admission.queued_bytes == 0


async def test_senders_of_nothing_lose_their_places_to_those_who_send(start, request_of, detailed, until):
    """Also where all come from one address and have no key."""
    admission = AdmissionConfig(max_reading=4, read_timeout_s=300)  # no place is lost by that
    one = await start(operations=OperationsConfig(admission=admission))
    receiving = one.gateway.operations.admission.receiving
    silent = [silent_call(one) for _ in range(6)]
    await until(lambda: (receiving.in_use, receiving.waiting) == (3, 3))
    answers = await asyncio.wait_for(asyncio.gather(*(classify(one, request_of()) for _ in range(4))), 40)
    assert all(answer.results for answer in answers)
    endings = [asyncio.ensure_future(refused(call)) for call in silent]  # which comes first is the network's choice
    ended, _ = await asyncio.wait(endings, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    error = ended.pop().result()
    assert (error.code(), detailed(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_SLOW")
    assert detailed(error).retry_s == 1
    registry = one.gateway.operations.metrics.registry
    count = registry.get_sample_value("clipsr_gateway_rejections_total", {"reason": "MESSAGE_SLOW", "key": ""})
    assert count is not None
    assert count >= 1
    assert registry.get_sample_value("clipsr_gateway_messages_receiving") == receiving.in_use
    assert registry.get_sample_value("clipsr_gateway_messages_waiting") == receiving.waiting
    for call in silent:
        call.cancel()
    await asyncio.gather(*endings, return_exceptions=True)
    await until(lambda: (receiving.in_use, receiving.waiting) == (0, 0))


async def test_senders_of_nothing_leave_places_to_other_keys_and_spend_their_rate(start, keys, request_of, until):
    slow = add_key(keys, "slow", limits=KeyLimits(items_per_second=0.01, burst=3))
    other = add_key(keys, "other", limits=None)
    one = await start(
        operations=OperationsConfig(api_keys=keys, admission=AdmissionConfig(max_reading=4, read_timeout_s=4))
    )
    receiving = one.gateway.operations.admission.receiving
    silent = [silent_call(one, metadata=bearer(slow)) for _ in range(3)]
    await until(lambda: receiving.in_use == 3)
    assert (await _classify(one, request_of(), other)).results  # nobody had to go for it
    codes = [(await refused(call)).code() for call in silent]
    assert codes == [grpc.StatusCode.DEADLINE_EXCEEDED] * 3
    error = await refused(one.stub.Classify(request_of(), metadata=bearer(slow)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def classify(one: Any, request: Any) -> Any:
    return await one.stub.Classify(request)


def silent_call(one: Any, **options: Any) -> Any:
    """A call that is open and never sends its message."""
    return one.channel.stream_unary(
        "/clipsr.v1.ClassifierService/Classify", request_serializer=empty_pb2.Empty.SerializeToString
    )(**options)


async def test_health_takes_no_more_than_a_name(start, detailed):
    one = await start()
    check = one.channel.unary_unary("/grpc.health.v1.Health/Check")
    for size in (2_000, 30 * 1024 * 1024):
        error = await refused(check(b"\x0a" + b"\0" * size))
        assert (error.code(), detailed(error).reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED")
    with pytest.raises(grpc.aio.AioRpcError):
        await one.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a" + b"\0" * 2_000).read()
    assert await one.health.Check(health_pb2.HealthCheckRequest())


async def test_health_answers_beside_senders_of_nothing(start):
    one = await start()
    silent = [one.channel.stream_unary("/grpc.health.v1.Health/Check")() for _ in range(8)]
    await asyncio.gather(*(call.wait_for_connection() for call in silent))
    assert await asyncio.wait_for(one.health.Check(health_pb2.HealthCheckRequest()), 60)
    for call in silent:
        call.cancel()


async def test_a_message_that_never_comes_ends_the_call(start, detailed):
    one = await start(operations=OperationsConfig(admission=AdmissionConfig(read_timeout_s=0.1)))
    call = one.channel.stream_unary(
        "/clipsr.v1.ClassifierService/Classify",
        request_serializer=empty_pb2.Empty.SerializeToString,
    )()
    error = await refused(call)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert detailed(error).reason == "DEADLINE_EXCEEDED"
    assert one.gateway.operations.admission.calls == 0
