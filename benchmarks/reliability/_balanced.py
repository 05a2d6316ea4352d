"""Several services behind a load balancer: restarted one after the other, killed, cut off, stopped."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from benchmarks.load.images import make_image
from benchmarks.reliability._instances import Instance
from benchmarks.reliability._load import Caller, Outcome, first_answer, keep_calling, p99_ms
from benchmarks.reliability._verdict import Verdict
from clipsr import AsyncClient, Classification, ClipsrError

__all__ = ["FAULTS", "judge_fault", "judge_rolling", "measure_balanced"]

_LABELS = ["a cat", "a dog", "a boat", "a tree"]

# Longer than a load balancer takes to find an instance that does not answer (deploy/envoy: 13 s).
_TIMEOUT_S = 20.0
_SLACK_S = 1.0

_WARM_UP_S = 5.0

# An instance that is back gets its share again before the next one goes.
_BETWEEN_S = 3.0
_FAULT_AFTER_S, _FAULT_LASTS_S, _FAULT_SECONDS = 3.0, 15.0, 30.0

# The load loops are run for so long at a time while something else takes as long as it takes.
_TURN_S = 2.0


async def measure_balanced(
    url: str,
    instances: Sequence[Instance],
    *,
    callers: int,
    rate: float,
    retries: int,
    seconds: float,
    faults: Sequence[str],
) -> list[Verdict]:
    """Restart every instance under load, then let each of the faults happen to the first one.

    Args:
        url: HOST:PORT of the load balancer.
        instances: behind it.
        callers: who each send one image and wait for the answer.
        rate: calls a second that each of them makes at most; the instances share this machine's processors, and what
            two of them cannot carry without the third is refused.
        retries: of each call, by the client library.
        seconds: of the quiet time that latencies are compared with, and of the restarts at least.
        faults: names, of `FAULTS`.
    """
    async with _connect(url, callers=callers, rate=rate, retries=retries) as asks:
        if await first_answer(asks[0], patience_s=60) is None:
            raise SystemExit("nothing answers behind the load balancer")
        await keep_calling(asks, seconds=_WARM_UP_S)
        quiet = await keep_calling(asks, seconds=seconds)
        restarts = asyncio.create_task(_restart_each(instances))
        rolling = await _call_during(asks, restarts, at_least_s=seconds)
        verdicts = judge_rolling(quiet, rolling, restarts=len(instances))
        for name in faults:
            await keep_calling(asks, seconds=_BETWEEN_S)
            fault = asyncio.create_task(FAULTS[name](instances[0]))
            outcomes = await _call_during(asks, fault, at_least_s=_FAULT_SECONDS)
            verdicts.append(judge_fault(name, outcomes, timeout_s=_TIMEOUT_S))
    return verdicts


def judge_rolling(quiet: Sequence[Outcome], rolling: Sequence[Outcome], *, restarts: int) -> list[Verdict]:
    """Look for lost calls while instances were restarted, and compare latencies with those of before."""
    lost = [outcome for outcome in (*quiet, *rolling) if not outcome.is_ok]
    quiet_ms, rolling_ms = (p99_ms([each.latency_s for each in calls if each.is_ok]) for calls in (quiet, rolling))
    return [
        Verdict(
            claim=f"{restarts} instances restarted one after the other under load: no call is lost",
            measured=f"{len(rolling):,} calls, {len(lost)} lost{_describe(lost)}",
            holds=bool(rolling) and not lost,
        ),
        Verdict(
            claim="meanwhile p99 under 3 x that of before",
            measured=f"{rolling_ms:.0f} ms, before {quiet_ms:.0f} ms ({rolling_ms / max(quiet_ms, 1e-9):.1f} x)",
            holds=bool(rolling) and rolling_ms < 3 * quiet_ms,
        ),
    ]


def judge_fault(name: str, outcomes: Sequence[Outcome], *, timeout_s: float) -> Verdict:
    """Say what callers noticed of a fault; that of an instance which is gone at once must cost no call."""
    lost = [outcome for outcome in outcomes if not outcome.is_ok]
    late = [outcome for outcome in outcomes if outcome.latency_s > timeout_s + _SLACK_S]
    slowest_s = max((outcome.latency_s for outcome in outcomes), default=0.0)
    slow = sum(outcome.latency_s > 1 for outcome in outcomes)
    return Verdict(
        claim=f"one instance {name} under load: no call is lost",
        measured=f"{len(outcomes):,} calls, {len(lost)} lost{_describe(lost)}; p99 "
        f"{p99_ms([outcome.latency_s for outcome in outcomes]):.0f} ms, {slow} took more than 1 s, the slowest "
        f"{slowest_s:.1f} s; {len(late)} outlived their deadline",
        holds=bool(outcomes) and not lost and not late,
    )


def _describe(lost: Sequence[Outcome]) -> str:
    counts = Counter(f"{each.code} {each.reason or each.message[:80]}" for each in lost)
    return f" ({', '.join(f'{count} x {what}' for what, count in counts.items())})" if counts else ""


@asynccontextmanager
async def _connect(url: str, *, callers: int, rate: float, retries: int) -> AsyncIterator[list[Caller]]:
    """Callers, each with a client, that is a connection, of its own."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(url, timeout_s=_TIMEOUT_S, retries=retries))
            for _ in range(callers)
        ]
        yield [_caller(client, make_image(32, seed=number), every_s=1 / rate) for number, client in enumerate(clients)]


def _caller(client: AsyncClient, image: bytes, *, every_s: float) -> Caller:
    next_s = time.monotonic() + random.uniform(0, every_s)

    async def ask() -> Outcome:
        nonlocal next_s
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        next_s = max(next_s + every_s, time.monotonic())
        began_s, code, reason, message = time.monotonic(), "OK", "", ""
        try:
            (answer,) = await client.classify([image], _LABELS, top_k=1)
            if not isinstance(answer, Classification):
                code, message = "FAILED", str(answer)
        except ClipsrError as error:
            code, reason, message = type(error).__name__, getattr(error, "reason", ""), str(error)
        return Outcome(
            request_id=uuid.uuid4().hex,
            code=code,
            reason=reason,
            message=message,
            began_s=began_s,
            latency_s=time.monotonic() - began_s,
        )

    return ask


async def _call_during(asks: Sequence[Caller], work: asyncio.Task[None], *, at_least_s: float) -> list[Outcome]:
    """Keep calling until some work is done, and for so long at least."""
    outcomes: list[Outcome] = []
    end_s = time.monotonic() + at_least_s
    while not work.done() or time.monotonic() < end_s:
        outcomes += await keep_calling(asks, seconds=_TURN_S)
    await work
    return outcomes


async def _restart_each(instances: Sequence[Instance]) -> None:
    for instance in instances:
        await asyncio.sleep(_BETWEEN_S)
        await asyncio.to_thread(instance.stop)
        await asyncio.to_thread(instance.start)
    await asyncio.sleep(_BETWEEN_S)


async def _killed(instance: Instance) -> None:
    await asyncio.sleep(_FAULT_AFTER_S)
    await asyncio.to_thread(instance.kill)
    await asyncio.sleep(_FAULT_LASTS_S)
    await asyncio.to_thread(instance.start)


async def _cut_off(instance: Instance) -> None:
    await asyncio.sleep(_FAULT_AFTER_S)
    await asyncio.to_thread(instance.set_link, "down")
    await asyncio.sleep(_FAULT_LASTS_S)
    await asyncio.to_thread(instance.set_link, "up")


async def _stopped(instance: Instance) -> None:
    gateway = instance.service.pids()["gateway"]
    await asyncio.sleep(_FAULT_AFTER_S)
    os.kill(gateway, signal.SIGSTOP)
    await asyncio.sleep(_FAULT_LASTS_S)
    os.kill(gateway, signal.SIGCONT)


FAULTS: Mapping[str, Callable[[Instance], Coroutine[Any, Any, None]]] = {
    "killed": _killed,
    "cut off": _cut_off,
    "stopped": _stopped,
}
