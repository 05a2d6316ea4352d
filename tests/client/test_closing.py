"""A client has one closed state: what is under way when it is closed, and what comes later, ends the same way."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2

from clipsr import AsyncClient, Classification, Client, ClientClosedError

MINUTE = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60))
WAIT_S = 30  # for what happens at once; reached by no test that passes

Arrived = threading.Event


def close(client: Any) -> None:
    """Close a client of either kind; the loop of an AwaitingClient is still needed."""
    if isinstance(client, Client):
        client.close()
    else:
        client._loop.run_until_complete(client._client.close())


def hold_classify(service: Any, arrived: Arrived) -> Callable[[Any], Any]:
    """A call that the service has and does not answer."""

    def answer(request: Any) -> None:
        arrived.set()
        service._stopped.wait(WAIT_S)

    service.answer = answer
    return lambda client: client.classify([b"photo"], ["cat"])


def refuse_for_a_minute(service: Any, arrived: Arrived) -> Callable[[Any], Any]:
    """A call that waits for its second attempt."""
    service.abort(grpc.StatusCode.UNAVAILABLE, "Later.", MINUTE)
    arrived.set()
    return lambda client: client.classify([b"photo"], ["cat"], timeout_s=120)


def never_ready(service: Any, arrived: Arrived) -> Callable[[Any], Any]:
    """A service that is waited for."""
    service.health[""] = health_pb2.HealthCheckResponse.NOT_SERVING
    arrived.set()
    return lambda client: client.wait_for_ready(timeout_s=120)


CALLS = [hold_classify, refuse_for_a_minute, never_ready]


def hold_stream(service: Any, arrived: Arrived) -> Callable[[Any], Any]:
    """A stream whose second image is not answered."""

    def wait(answered: int, context: grpc.ServicerContext) -> None:
        if answered == 1:
            arrived.set()
            service._stopped.wait(WAIT_S)

    service.on_stream = wait
    return lambda client: client.classify_stream([b"1", b"2"], ["cat"])


def refuse_stream(service: Any, arrived: Arrived) -> Callable[[Any], Any]:
    """A stream that waits for its second connection."""
    service.abort(grpc.StatusCode.UNAVAILABLE, "Later.", MINUTE)
    arrived.set()
    return lambda client: client.classify_stream([b"1"], ["cat"], idle_timeout_s=120)


def starve_stream(service: Any, arrived: Arrived) -> Callable[[Any], Any]:
    """A stream that waits for its next image."""

    def images() -> Iterator[bytes]:
        yield b"1"
        arrived.set()
        service._stopped.wait(WAIT_S)

    return lambda client: client.classify_stream(images(), ["cat"])


def hold_reembedding(service: Any, arrived: Arrived) -> Callable[[Any], Any]:
    """A call with many answers, of which one is there."""
    service.library.create("photos")
    for content in (b"1", b"2"):
        service.library._add(service.library.images["photos"], library_image(content))

    def wait(done: int, context: grpc.ServicerContext) -> None:
        arrived.set()
        service._stopped.wait(WAIT_S)

    service.library.on_reembed = wait
    return lambda client: client.library("photos").reembed()


def library_image(content: bytes) -> Any:
    from clipsr.v1 import library_pb2, types_pb2

    return library_pb2.NewImage(image=types_pb2.Image(content=content))


STREAMS = [hold_stream, refuse_stream, starve_stream, hold_reembedding]


@pytest.mark.parametrize("prepare", CALLS)
def test_a_call_under_way_ends(fake_service, prepare):
    arrived = Arrived()
    call = prepare(fake_service, arrived)
    client = Client(fake_service.url)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(call, client)
        assert arrived.wait(WAIT_S)
        client.close()
        with pytest.raises(ClientClosedError, match="client is closed"):
            answer.result(WAIT_S)
    fake_service.stop()


@pytest.mark.parametrize("prepare", CALLS)
async def test_an_awaited_call_under_way_ends(fake_service, prepare):
    arrived = Arrived()
    call = prepare(fake_service, arrived)
    client = AsyncClient(fake_service.url)
    answer = asyncio.ensure_future(call(client))
    assert await asyncio.to_thread(arrived.wait, WAIT_S)
    await client.close()
    with pytest.raises(ClientClosedError, match="client is closed"):
        await asyncio.wait_for(answer, WAIT_S)
    fake_service.stop()


@pytest.mark.parametrize("prepare", STREAMS)
def test_a_stream_under_way_ends(fake_service, prepare):
    arrived = Arrived()
    call = prepare(fake_service, arrived)
    client = Client(fake_service.url)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(list, call(client))
        assert arrived.wait(WAIT_S)
        client.close()
        with pytest.raises(ClientClosedError, match="client is closed"):
            answer.result(WAIT_S)
    fake_service.stop()


@pytest.mark.parametrize("prepare", STREAMS)
async def test_an_awaited_stream_under_way_ends(fake_service, prepare):
    arrived = Arrived()
    outcomes = prepare(fake_service, arrived)
    client = AsyncClient(fake_service.url)

    async def read_all() -> list[Any]:
        return [outcome async for outcome in outcomes(client)]

    answer = asyncio.ensure_future(read_all())
    assert await asyncio.to_thread(arrived.wait, WAIT_S)
    await client.close()
    fake_service._stopped.set()  # a thread that reads images ends with them, not with the stream
    with pytest.raises(ClientClosedError, match="client is closed"):
        await asyncio.wait_for(answer, WAIT_S)
    fake_service.stop()


def test_what_was_answered_before_is_still_handed_out(connect, fake_service):
    client = connect(fake_service.url)
    fake_service.stream_burst = 3
    outcomes = client.classify_stream([b"1", b"2", b"3"], ["cat"])
    first = next(outcomes)
    assert isinstance(first[1], Classification)
    close(client)
    rest = []
    with contextlib.suppress(ClientClosedError):
        rest.extend(outcomes)
    assert all(isinstance(outcome, Classification) for _, outcome in rest)


USES = {
    "classify": lambda client: client.classify([b"photo"], ["cat"]),
    "classify_stream": lambda client: list(client.classify_stream([b"photo"], ["cat"])),
    "embed_images": lambda client: client.embed_images([b"photo"]),
    "embed_texts": lambda client: client.embed_texts(["cat"]),
    "upscale": lambda client: client.upscale(b"photo", scale=2),
    "model_info": lambda client: client.model_info(),
    "health": lambda client: client.health(),
    "wait_for_ready": lambda client: client.wait_for_ready(),
    "list_libraries": lambda client: client.list_libraries(),
    "library": lambda client: client.library("photos").info(),
    "add": lambda client: list(client.library("photos").add([b"photo"])),
    "list_images": lambda client: list(client.library("photos").list_images()),
    "reembed": lambda client: list(client.library("photos").reembed()),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("is_used_before", [True, False])
def test_a_closed_client_says_so(connect, fake_service, use, is_used_before):
    client = connect(fake_service.url)
    if is_used_before:
        client.model_info()
    close(client)
    close(client)  # once more is as good
    with pytest.raises(ClientClosedError, match="client is closed"):
        USES[use](client)


def test_a_second_event_loop_is_told_so(fake_service):
    client = AsyncClient(fake_service.url)

    async def call() -> None:
        await client.model_info()

    async def stream() -> None:
        async for _ in client.classify_stream([b"photo"], ["cat"]):
            pass

    asyncio.run(call())
    for use in (call, stream):
        with pytest.raises(ClientClosedError, match=r"one client in each asyncio\.run\(\)"):
            asyncio.run(use())
    asyncio.run(client.close())
    with pytest.raises(ClientClosedError, match="client is closed"):
        asyncio.run(call())


LEFT_BEHIND = """
import asyncio, sys
from clipsr import AsyncClient, ClientClosedError

client, loop = AsyncClient(sys.argv[1]), asyncio.new_event_loop()
outcomes = client.classify_stream([b"1", b"2", b"3"], ["cat"], read_ahead=1)
loop.run_until_complete(anext(outcomes))
loop.close()
asyncio.run(client.close())
try:
    asyncio.run(client.model_info())
except ClientClosedError as error:
    print(error)
"""


def test_a_client_whose_event_loop_is_gone_can_be_closed(fake_service):
    """In a process of its own, for Python complains about what the loop left unfinished."""
    command = [sys.executable, "-c", LEFT_BEHIND, fake_service.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:20]) == (0, "The client is closed"), done.stderr


async def test_a_client_is_closed_where_it_is_used(fake_service):
    async with AsyncClient(fake_service.url) as client:
        await client.model_info()
        with pytest.raises(ClientClosedError, match="event loop of its first call"):
            await asyncio.to_thread(asyncio.run, client.close())
        assert await client.health() == "SERVING"


async def test_a_cancelled_task_is_cancelled(fake_service):
    arrived = Arrived()
    call = hold_classify(fake_service, arrived)
    async with AsyncClient(fake_service.url) as client:
        answer = asyncio.ensure_future(call(client))
        assert await asyncio.to_thread(arrived.wait, WAIT_S)
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
    fake_service.stop()
