"""The Python client against this gateway: streams grow old, and no image is lost or computed twice."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from clipsr import AsyncClient, Classification

IMAGES = 250


def streams_in(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """What the gateway logged of streams."""
    lines = [record.fields for record in caplog.records if record.getMessage() == "call"]
    return [line for line in lines if line["method"] == "ClassifyStream"]


async def test_streams_that_grow_old_are_gone_on_with(start, backend, png, monkeypatch, caplog):
    monkeypatch.setattr("clipsr._async.stream._LISTEN_S", 0.1)  # as here: a small part of a stream's age
    one = await start(max_concurrent=4, max_stream_age_s=0.8)
    contents = [png(8 + n % 50, 8 + n // 50) for n in range(IMAGES)]

    async def slowly() -> AsyncIterator[bytes]:
        for content in contents:
            yield content
            await asyncio.sleep(0.008)

    caplog.set_level(logging.INFO, logger="clipsr_gateway")
    async with AsyncClient(f"127.0.0.1:{one.port}") as client:
        outcomes = [pair async for pair in client.classify_stream(slowly(), ["cat", "dog"])]
    assert sorted(number for number, _ in outcomes) == list(range(IMAGES))
    for number, outcome in outcomes:
        assert isinstance(outcome, Classification)
        assert outcome.input_hw == (8 + number // 50, 8 + number % 50)
    sent = Counter(call["image"] for call in backend.user_calls())
    assert len(streams_in(caplog)) > 1
    assert set(sent.values()) == {1}  # what the old stream had read, it had answered
    assert len(sent) == IMAGES
