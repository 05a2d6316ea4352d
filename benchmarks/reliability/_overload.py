"""Too much to do: overload by independent callers, and one caller's giants beside another's small images."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.load.images import make_image
from benchmarks.load.plan import Target
from benchmarks.reliability._hostile import judge_beside
from benchmarks.reliability._load import (
    Caller,
    Outcome,
    call,
    connect,
    count_codes,
    keep_calling,
    make_request,
    p99_ms,
    send_at_rate,
)
from benchmarks.reliability._verdict import Verdict

__all__ = ["measure_mixed", "measure_overload"]

_LABELS = [f"thing {number}" for number in range(10)]
_TIMEOUT_S = 20.0
_CONNECTIONS = 8


def _askers(stubs: Sequence[Any], target: Target, requests: Sequence[Any], count: int) -> list[Caller]:
    def asker(number: int) -> Caller:
        method, request = stubs[number % len(stubs)].Classify, requests[number % len(requests)]
        return lambda: call(method, request, target, timeout_s=_TIMEOUT_S)

    return [asker(number) for number in range(count)]


async def measure_overload(
    target: Target, *, callers: int, seconds: float, factor: float, warm_up_s: float = 5.0
) -> list[Verdict]:
    """Find the capacity with callers that wait for their answers, then send a multiple of it.

    Args:
        target: the service.
        callers: how many fill the service without overloading it.
        seconds: of each part.
        factor: times the capacity.
        warm_up_s: of calls that are not counted.
    """
    requests = [make_request([make_image(32, seed=seed)], _LABELS) for seed in range(16)]
    async with connect(target, connections=_CONNECTIONS) as stubs:
        await keep_calling(_askers(stubs, target, requests, 1), seconds=warm_up_s / 2)  # alone, for the estimates
        await keep_calling(_askers(stubs, target, requests, callers), seconds=warm_up_s / 2)
        filled = await keep_calling(_askers(stubs, target, requests, callers), seconds=seconds)
        good = [outcome.latency_s for outcome in filled if outcome.is_ok]
        capacity, unloaded_ms = len(good) / seconds, p99_ms(good)
        if not good:
            return [Verdict(claim="the service answers", measured=str(count_codes(filled)), holds=False)]
        flood = await send_at_rate(_askers(stubs, target, requests, 64), rate=factor * capacity, seconds=seconds)
    return judge_overload(flood, capacity=capacity, unloaded_ms=unloaded_ms, seconds=seconds, factor=factor)


def judge_overload(
    flood: Sequence[Outcome], *, capacity: float, unloaded_ms: float, seconds: float, factor: float
) -> list[Verdict]:
    """Compare what came of an overload with what was without it."""
    admitted = [outcome.latency_s for outcome in flood if outcome.is_ok]
    refused = [outcome for outcome in flood if not outcome.is_ok]
    odd = [outcome for outcome in refused if outcome.code != "RESOURCE_EXHAUSTED" or outcome.retry_s is None]
    refused_ms = p99_ms([outcome.latency_s for outcome in refused])
    slowest_ms = 1000 * max((outcome.latency_s for outcome in refused), default=0.0)
    lasted_s = max(seconds, max(o.began_s + o.latency_s for o in flood) - min(o.began_s for o in flood))
    rate = len(admitted) / lasted_s
    load = f"{factor:g} x capacity ({factor * capacity:.0f} calls/s for {seconds:g} s)"
    return [
        Verdict(
            claim=f"{load}: admitted calls keep a p99 under 2 x that at capacity",
            measured=f"{p99_ms(admitted):.0f} ms; at capacity {unloaded_ms:.0f} ms",
            holds=bool(admitted) and p99_ms(admitted) < 2 * unloaded_ms,
        ),
        Verdict(
            claim="the rest gets RESOURCE_EXHAUSTED with RetryInfo",
            measured=f"{len(refused)} of {len(flood)} calls refused, {len(odd)} otherwise {count_codes(odd)}",
            holds=bool(refused) and not odd,
        ),
        Verdict(
            claim="within 50 ms (99 % of them)",
            measured=f"p99 {refused_ms:.0f} ms, slowest {slowest_ms:.0f} ms",
            holds=refused_ms <= 50,
        ),
        Verdict(
            claim="throughput within 10 % of capacity",
            measured=f"{rate:.1f} images/s; capacity {capacity:.1f}",
            holds=rate >= 0.9 * capacity,
        ),
    ]


async def measure_mixed(target: Target, *, seconds: float, megapixels: float, labels: int) -> list[Verdict]:
    """One caller's small images, first alone, then beside another's giants."""
    small = [make_request([make_image(32, seed=seed)], _LABELS) for seed in range(4)]
    side_px = int((megapixels * 1e6) ** 0.5)
    giants = [make_request([make_image(side_px, seed=seed, file_format="JPEG")], _LABELS) for seed in range(2)]

    def make_labels(number: int) -> Any:  # never the same twice: all of them are new to the service's cache
        return make_request([make_image(32)], [f"thing {label} of kind {number}" for label in range(labels)])

    others: list[tuple[str, Callable[[int], Any]]] = [
        (f"{megapixels:g}-megapixel images", lambda number: giants[number % len(giants)]),
        (f"{labels:,} labels", make_labels),
    ]
    verdicts: list[Verdict] = []
    async with connect(target, connections=2) as (one, other):
        await keep_calling(_askers([one], target, small, 2), seconds=min(5.0, seconds))
        alone = await keep_calling(_askers([one], target, small, 2), seconds=seconds)
        for what, make in others:
            numbers = itertools.count()
            beside, hindered = await asyncio.gather(
                keep_calling(_askers([one], target, small, 2), seconds=seconds),
                keep_calling([_in_turn(other, target, make, numbers) for _ in range(4)], seconds=seconds),
            )
            verdicts.append(judge_beside(what, alone, beside, count_codes(hindered)))
    return verdicts


def _in_turn(stub: Any, target: Target, make: Callable[[int], Any], numbers: Iterator[int]) -> Caller:
    return lambda: call(stub.Classify, make(next(numbers)), target, timeout_s=120.0)
