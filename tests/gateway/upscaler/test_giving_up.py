"""Calls of Upscale whose callers give up: what cannot be interrupted keeps its place, and holds up no exit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import grpc
import pytest

from clipsr.v1 import types_pb2, upscaler_pb2
from clipsr_gateway._images import output


class SlowDecoder:
    """Takes the decoder's place, and keeps its threads until told to let them go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = 0

    def __call__(self, content: bytes) -> Any:
        self.running += 1
        self.go.wait(60)
        self.running -= 1
        raise RuntimeError("nobody hears of it")


@pytest.fixture
def decoder(monkeypatch):
    decoder = SlowDecoder()
    monkeypatch.setattr(output, "decode", decoder)
    yield decoder
    decoder.go.set()


async def test_a_decoding_keeps_its_place_when_its_caller_gives_up(start, decoder, png, until):
    one = await start()
    request = upscaler_pb2.UpscaleRequest(image=types_pb2.Image(content=png()), scale=2)
    runner = one.gateway.operations.runner
    for _ in range(3):
        calls = [asyncio.ensure_future(_upscale(one, request)) for _ in range(4)]
        await until(lambda: runner.in_flight == 4)
        await until(lambda: decoder.running == 4)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: runner.in_flight == 0)
    assert decoder.running == 4  # not twelve
    decoder.go.set()
    await until(lambda: decoder.running == 0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _upscale(one, request)  # there is a place again
    assert caught.value.code() == grpc.StatusCode.INTERNAL


async def _upscale(one: Any, request: Any) -> Any:
    return await one.upscaler.Upscale(request)


def test_no_exit_waits_for_what_cannot_be_interrupted():
    code = (
        "import asyncio, threading\n"
        "from clipsr_gateway._offload import run_in_own_thread\n"
        "started = threading.Event()\n"
        "def never(): started.set(); threading.Event().wait()\n"
        "async def main():\n"
        "    task = asyncio.ensure_future(run_in_own_thread(never))\n"
        "    await asyncio.to_thread(started.wait)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0
