"""Long label lists go ahead in portions, once, and others pass between them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from tests.gateway.conftest import even_scores

from clipsr_gateway import BackendFaultError, BackendUnavailableError, Similarities

MANY = [f"thing {number}" for number in range(300)]


async def test_few_labels_go_with_their_image(start, backend, request_of):
    one = await start()
    await one.stub.Classify(request_of(labels=MANY[:64], templates=["a {}"]))
    assert backend.warmed == []


async def test_many_go_ahead_once_in_portions(start, backend, request_of):
    one = await start()
    for _ in range(2):
        await one.stub.Classify(request_of(labels=MANY, templates=["a {}"]))
    assert sum(backend.warmed) == 300
    assert 1 < len(backend.warmed) < 20
    assert backend.warmed[0] == 16
    assert max(backend.warmed) > 16  # the fake is fast, so that portions grow
    before = len(backend.warmed)
    await one.stub.Classify(request_of(labels=MANY, templates=["the {}"]))
    assert len(backend.warmed) > before


async def test_slow_portions_stay_small(start, backend, request_of):
    async def slow() -> None:
        await asyncio.sleep(0.035)

    backend.compute = slow
    one = await start()
    await one.stub.Classify(request_of(labels=MANY[:100], templates=["a {}", "the {}"]))
    assert set(backend.warmed) == {8, 4}  # 16 texts of 2 templates; the rest of 100


async def test_others_pass_between_portions(start, backend, request_of, until):
    portions_before: list[int] = []

    def answer(image: bytes, label_count: int) -> Similarities:
        portions_before.append(len(backend.warmed))
        return even_scores(label_count)

    backend.answer, backend.hold = answer, asyncio.Event()
    one = await start(max_concurrent=1)
    long = asyncio.ensure_future(_classify(one, request_of(labels=[f"{n}" for n in range(2000)], templates=["a {}"])))
    await until(lambda: backend.warmed)
    short = asyncio.ensure_future(_classify(one, request_of()))
    await until(lambda: one.queue_length() == 1)
    backend.hold.set()
    backend.hold = None
    await asyncio.gather(long, short)
    assert portions_before == [1, len(backend.warmed)]


async def _classify(one: Any, request: Any) -> Any:
    return await one.stub.Classify(request)


async def test_after_the_backend_was_away_they_go_again(start, backend, request_of):
    one = await start()
    await one.stub.Classify(request_of(labels=MANY, templates=["a {}"]))
    portions = len(backend.warmed)
    backend.error = BackendUnavailableError("h:1", "Triton is away.")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await one.stub.Classify(request_of(labels=MANY, templates=["a {}"]))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    backend.error = None
    await one.stub.Classify(request_of(labels=MANY, templates=["a {}"]))
    assert len(backend.warmed) > portions


async def test_a_fault_is_reported_with_the_images(start, backend, request_of):
    backend.error = BackendFaultError("no")
    one = await start()
    answer = await one.stub.Classify(request_of(labels=MANY, templates=["a {}"]))
    assert answer.results[0].HasField("error")
    assert len(backend.warmed) == 1
