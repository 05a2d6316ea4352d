"""ClassifyStream over a real socket; the backend is a fake at the seam."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import grpc
import pytest
from tests.gateway.conftest import EMBED_DIM, ask

from clipsr.v1 import classifier_pb2, types_pb2
from clipsr_gateway import BackendFaultError, BackendUnavailableError, ImageRejectedError, Limits

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def config(labels: Iterable[str] = ("cat", "dog"), **options: Any) -> classifier_pb2.ClassifyStreamRequest:
    space = types_pb2.LabelSpace(labels=labels)
    return classifier_pb2.ClassifyStreamRequest(options=classifier_pb2.ClassifyOptions(label_space=space, **options))


def image(content: bytes, index: int = 0) -> classifier_pb2.ClassifyStreamRequest:
    return classifier_pb2.ClassifyStreamRequest(
        image=classifier_pb2.StreamImage(index=index, image=types_pb2.Image(content=content))
    )


async def answers(call: Any) -> dict[int, classifier_pb2.ClassifyResult]:
    """Reads a stream to its end; each index once."""
    found: dict[int, classifier_pb2.ClassifyResult] = {}
    async for answer in call:
        assert answer.index not in found
        found[answer.index] = answer.result
    return found


async def test_every_image_is_answered_with_its_number(start, png):
    one = await start()
    numbers = [7, 0, 2**64 - 1, 3, *range(100, 300)]
    call = one.stub.ClassifyStream(iter([config(top_k=1), *(image(png(8 + n % 80), n) for n in numbers)]))
    found = await answers(call)
    assert sorted(found) == sorted(numbers)
    for number, result in found.items():
        assert len(result.classification.predictions) == 1
        assert result.classification.input_size.width == 8 + number % 80
    assert await call.code() == grpc.StatusCode.OK
    assert "x-request-id" in dict(await call.trailing_metadata())


async def test_answers_come_as_they_are_ready(start, backend, png):
    gates = {png(8): asyncio.Event(), png(9): asyncio.Event()}
    one = await start()
    hold_each(backend, gates)
    call = one.stub.ClassifyStream(iter([config(), image(png(8), 1), image(png(9), 2)]))
    gates[png(9)].set()
    assert (await call.read()).index == 2
    gates[png(8)].set()
    assert (await call.read()).index == 1
    assert await call.read() is grpc.aio.EOF


def hold_each(backend: Any, gates: dict[bytes, asyncio.Event]) -> None:
    """Makes the backend answer an image when its gate opens."""
    wait, contents = backend.compute, backend.calls

    async def compute() -> None:
        content = contents[-1]["image"]
        await wait()
        await gates[content].wait()

    backend.compute = compute


async def test_a_stream_without_images_ends_well(start, backend):
    one = await start()
    call = one.stub.ClassifyStream(iter([config()]))
    assert await answers(call) == {}
    assert await call.code() == grpc.StatusCode.OK
    assert not backend.user_calls()


async def test_options_hold_for_every_image(start, backend, png):
    one = await start()
    options = {"fit": types_pb2.FIT_SQUASH, "route": types_pb2.ROUTE_NATIVE, "return_embedding": True}
    found = await answers(one.stub.ClassifyStream(iter([config(**options), image(png(), 1), image(png(), 2)])))
    assert {(call["fit"], call["route"]) for call in backend.user_calls()} == {("squash", "native")}
    assert [len(result.classification.embedding) for result in found.values()] == [EMBED_DIM] * 2


async def test_labels_are_prepared_once(start, backend, png, until):
    one = await start()
    await until(lambda: one.gateway.health.is_serving)
    backend.prepared.clear()
    await answers(one.stub.ClassifyStream(iter([config(), *(image(png(), n) for n in range(20))])))
    assert len(backend.prepared) == 1


async def test_an_image_that_fails_is_answered_and_the_stream_goes_on(start, backend, png, detailed, caplog):
    backend.errors[png(9)] = ImageRejectedError("IMAGE_TRUNCATED", "The file ends too early; send it again.")
    backend.errors[png(10)] = BackendFaultError("secret")
    one = await start()
    files = [b"", b"text", png(9), png(10), png()]
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        found = await answers(
            one.stub.ClassifyStream(iter([config(), *(image(file, n) for n, file in enumerate(files))]))
        )
    reasons = [detailed(found[n].error).reason for n in range(4)]
    assert reasons == ["IMAGE_EMPTY", "IMAGE_UNRECOGNIZED", "IMAGE_TRUNCATED", "INTERNAL"]
    assert detailed(found[2].error).fields == ["image.image.content"]
    assert found[4].HasField("classification")
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "call"]
    expected = {"method": "ClassifyStream", "code": "OK", "images": 5, "failed": 4, "routes": {"upscaled": 3}}
    assert expected.items() <= line.items()


BAD_STREAMS = {
    "nothing": ([], "OPTIONS_MISSING", ["options"]),
    "image first": ([image(b"x")], "OPTIONS_MISSING", ["options"]),
    "empty first": ([classifier_pb2.ClassifyStreamRequest()], "OPTIONS_MISSING", ["options"]),
    "config twice": ([config(), config()], "OPTIONS_REPEATED", ["options"]),
    "empty later": ([config(), classifier_pb2.ClassifyStreamRequest()], "MESSAGE_EMPTY", ["image"]),
    "no labels": ([config([])], "LABELS_EMPTY", ["options.label_space.labels"]),
    "label": ([config(["a", " "])], "LABEL_EMPTY", ["options.label_space.labels[1]"]),
    "options": ([config(fit=9, route=8)], "FIT_UNKNOWN", ["options.fit", "options.route"]),
    "none of these": (
        [config(none_of_these=classifier_pb2.NoneOfThese())],
        "THRESHOLD_MISSING",
        ["options.none_of_these"],
    ),
}


@pytest.mark.parametrize("name", BAD_STREAMS)
async def test_a_bad_stream_is_refused_with_its_field(start, backend, detailed, name):
    messages, reason, fields = BAD_STREAMS[name]
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (await ask(one.stub.ClassifyStream, messages)).read()
    error = detailed(caught.value)
    assert (caught.value.code(), error.reason, error.fields) == (INVALID, reason, fields)
    assert backend.in_flight == 0


async def test_a_second_configuration_stops_the_work(start, backend, png, until):
    backend.hold = asyncio.Event()
    one = await start()
    with pytest.raises(grpc.aio.AioRpcError):
        await answers(one.stub.ClassifyStream(iter([config(), image(png(), 1), config()])))
    await until(lambda: backend.in_flight == 0)
    assert backend.cancelled == len(backend.user_calls())


class Sender:
    """Sends messages and counts those that gRPC took."""

    def __init__(self, call: Any) -> None:
        self.call, self.sent = call, 0

    async def send(self, messages: Iterable[classifier_pb2.ClassifyStreamRequest]) -> None:
        for message in messages:
            await self.call.write(message)
            self.sent += 1


async def test_no_more_images_are_in_the_server_than_allowed(start, backend, png, until):
    backend.hold = asyncio.Event()
    one = await start(limits=Limits(max_stream_images=5))
    noise = png(8) + bytes(200_000)  # so that what is sent does not fit into buffers on the way
    call = one.stub.ClassifyStream()
    sender = Sender(call)
    sending = asyncio.ensure_future(sender.send([config(), *(image(noise, n) for n in range(400))]))
    await until(lambda: backend.in_flight == 5)
    await asyncio.sleep(0.2)
    assert backend.in_flight == backend.most_in_flight == 5
    assert sender.sent < 200  # the caller is held back; gRPC's buffers on the way grow to some 15 MB
    backend.hold.set()
    backend.hold = None
    reading = asyncio.ensure_future(answers(call))
    await sending
    await call.done_writing()
    assert sorted(await reading) == list(range(400))
    assert backend.most_in_flight == 5


async def test_no_more_bytes_are_in_the_server_than_one_message_may_hold(start, backend, png, until):
    backend.hold = asyncio.Event()
    one = await start(limits=Limits(max_message_bytes=1_000_000))
    big = png() + bytes(300_000)
    call = one.stub.ClassifyStream(iter([config(), *(image(big, n) for n in range(20))]))
    await until(lambda: backend.in_flight == 4)  # the fourth passes a million
    await asyncio.sleep(0.1)
    assert backend.in_flight == 4
    backend.hold.set()
    backend.hold = None
    assert len(await answers(call)) == 20


async def test_a_caller_who_reads_no_answers_is_not_read_from(start, backend, png):
    one = await start(limits=Limits(max_stream_images=4))
    labels = [f"label {n} ".ljust(1_000, "x") for n in range(300)]  # answers of 300 kB
    call = one.stub.ClassifyStream(iter([config(labels), *(image(png(), n) for n in range(100))]))
    await asyncio.sleep(0.5)
    assert len(backend.user_calls()) < 50
    assert len(await answers(call)) == 100


async def test_two_streams_and_a_single_image_share_the_places(start, backend, png, request_of, until):
    one = await start(max_concurrent=2)
    backend.hold = asyncio.Event()
    streams = [
        asyncio.ensure_future(answers(one.stub.ClassifyStream(iter([config(), *(image(png(), n) for n in range(60))]))))
        for _ in range(2)
    ]
    await until(lambda: backend.in_flight == 2)
    await until(lambda: one.queue_length() == 118)
    single = asyncio.ensure_future(one.stub.Classify(request_of(png(9))))
    await until(lambda: one.queue_length() == 119)
    backend.hold.set()
    backend.hold = None
    await single
    for stream in streams:
        assert len(await stream) == 60
    assert [call["image"] for call in backend.user_calls()].index(png(9)) < 5


def tasks_of_gateway() -> set[str]:
    """What runs for streams, by the names of the functions."""
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}
    return {name for name in names if name.startswith(("ClassifierService.", "ImageStream.", "process_concurrently"))}


async def read_until_it_fails(call: Any) -> tuple[list[int], grpc.aio.AioRpcError]:
    """Returns the numbers of the images that were classified, and how the stream ended."""
    found: list[int] = []
    try:
        while (answer := await call.read()) is not grpc.aio.EOF:
            assert answer.result.HasField("classification")
            found.append(answer.index)
    except grpc.aio.AioRpcError as error:
        return found, error
    raise AssertionError("the stream ended well")


async def test_cancelling_stops_the_work_and_leaves_nothing(start, backend, png, until, caplog):
    one = await start(max_concurrent=3)
    backend.hold = asyncio.Event()
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        call = await ask(one.stub.ClassifyStream, [config(), *(image(png(), n) for n in range(10))])
        await until(lambda: backend.in_flight == 3)
        call.cancel()
        await until(lambda: backend.in_flight == 0)
        await until(lambda: not tasks_of_gateway())
        await until(lambda: "call" in caplog.messages)  # written after the tasks' end
    assert backend.cancelled == 3
    assert len(backend.user_calls()) == 3
    assert not [record for record in caplog.records if record.getMessage() == "fault"]
    (line,) = [record.fields for record in caplog.records if record.getMessage() == "call"]
    assert line["code"] == "CANCELLED"


async def test_a_caller_that_goes_away_stops_the_work(start, backend, png, until, caplog):
    one = await start(max_concurrent=3)
    backend.hold = asyncio.Event()
    with caplog.at_level(logging.INFO, logger="clipsr_gateway"):
        await ask(one.stub.ClassifyStream, [config(), *(image(png(), n) for n in range(10))])
        await until(lambda: backend.in_flight == 3)
        await one.channel.close()  # the connection breaks
        await until(lambda: backend.in_flight == 0)
    assert not [record for record in caplog.records if record.getMessage() == "fault"]


async def test_a_deadline_ends_the_stream(start, backend, png, until):
    one = await start()
    backend.hold = asyncio.Event()
    call = one.stub.ClassifyStream(iter([config(), image(png())]), timeout=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(call)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: backend.in_flight == 0)


async def test_a_backend_that_is_down_ends_the_stream(start, backend, png, detailed, until):
    one = await start()
    backend.errors[png(9)] = BackendUnavailableError("h:1", "Triton at h:1 does not answer; retry.")
    call = await ask(one.stub.ClassifyStream, [config(), image(png(), 1)])
    assert (await call.read()).index == 1
    await call.write(image(png(9), 2))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert (detailed(caught.value).reason, detailed(caught.value).retry_s) == ("BACKEND_UNAVAILABLE", 1)
    await until(lambda: backend.in_flight == 0)


async def test_shutdown_answers_what_was_read_and_sends_the_caller_elsewhere(start, backend, png, detailed, until):
    backend.hold = asyncio.Event()
    one = await start(max_concurrent=4, grace_s=10.0)
    call = await ask(one.stub.ClassifyStream, [config(), *(image(png(), n) for n in range(12))])
    await until(lambda: backend.in_flight == 4)
    await until(lambda: one.queue_length() == 8)
    stopping = asyncio.ensure_future(one.gateway.stop())
    await until(one.gateway.operations.runner.draining.is_set)
    late = asyncio.ensure_future(call.write(image(png(), 99)))
    backend.hold.set()
    backend.hold = None
    found, error = await read_until_it_fails(call)
    assert sorted(found) == list(range(12))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert (detailed(error).reason, detailed(error).retry_s) == ("SHUTTING_DOWN", 1)
    assert await stopping  # nothing was cut off
    await asyncio.gather(late, return_exceptions=True)
    assert backend.cancelled == 0


async def test_shutdown_ends_a_stream_that_waits_for_its_first_message(start, detailed, until):
    one = await start(grace_s=10.0)
    call = one.stub.ClassifyStream()
    await call.wait_for_connection()
    await until(lambda: "ImageStream._next" in tasks_of_gateway())
    assert await one.gateway.stop()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert detailed(caught.value).reason == "SHUTTING_DOWN"


async def test_a_stream_that_grows_old_ends_with_all_its_answers(start, png, detailed):
    one = await start(max_stream_age_s=0.3)
    call = await ask(one.stub.ClassifyStream, [config(), *(image(png(), n) for n in range(5))])
    found, error = await read_until_it_fails(call)
    assert sorted(found) == list(range(5))
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert (detailed(error).reason, detailed(error).retry_s) == ("STREAM_EXPIRED", 1)


async def test_a_thousand_images_pass_through_one_stream(start, png):
    one = await start()
    content = png()
    call = one.stub.ClassifyStream(iter([config(top_k=1), *(image(content, n) for n in range(1_000))]))
    assert sorted(await answers(call)) == list(range(1_000))
