"""Processes that are killed, told to stop, or watched for a long time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.load.images import make_image
from benchmarks.load.plan import Target
from benchmarks.reliability._load import Caller, Outcome, call, connect, keep_calling, make_request, p99_ms
from benchmarks.reliability._service import Service
from benchmarks.reliability._verdict import Verdict

__all__ = [
    "best",
    "judge_calls",
    "judge_drain",
    "judge_kill",
    "judge_recovery",
    "judge_soak",
    "measure_drain",
    "measure_kill",
    "measure_soak",
]

_LABELS = ["a cat", "a dog", "a boat", "a tree"]

# How much later than its deadline gRPC may say that it passed.
_SLACK_S = 1.0


async def measure_kill(
    service: Service, target: Target, victim: str, *, documented: dict[str, str], callers: int, timeout_s: float = 5.0
) -> list[Verdict]:
    """Kills a process under load, and waits until the service answers as before."""
    request = make_request([make_image(32)], _LABELS)
    async with connect(target, connections=callers) as stubs:
        expected = await call(stubs[0].Classify, request, target, timeout_s=60)
        load = asyncio.create_task(
            keep_calling([_asker(stub, request, target, timeout_s) for stub in stubs], seconds=25)
        )
        await asyncio.sleep(3)
        killed_s = time.monotonic()
        os.kill(service.pids()[victim], signal.SIGKILL)
        outcomes = await load
    return judge_kill(outcomes, expected=expected, victim=victim, killed_s=killed_s, timeout_s=timeout_s,
                      documented=documented)  # fmt: skip


def judge_kill(
    outcomes: Sequence[Outcome],
    *,
    expected: Outcome,
    victim: str,
    killed_s: float,
    timeout_s: float,
    documented: dict[str, str],
) -> list[Verdict]:
    """Look at every call around a SIGKILL."""
    away = [outcome.latency_s for outcome in outcomes if outcome.code == "UNAVAILABLE"]
    return [
        judge_calls(f"SIGKILL of {victim}", outcomes, timeout_s=timeout_s, documented=documented),
        judge_recovery(outcomes, expected=expected, began_s=killed_s, within_s=15),
        Verdict(
            claim="meanwhile UNAVAILABLE at once, not a timeout",
            measured=f"p99 {p99_ms(away):.0f} ms of {len(away)} calls",
            holds=p99_ms(away) < 1000 * timeout_s / 2,
        ),
    ]


def judge_calls(what: str, outcomes: Sequence[Outcome], *, timeout_s: float, documented: Mapping[str, str]) -> Verdict:
    """Look at how every call around a fault ended."""
    late = [outcome for outcome in outcomes if outcome.latency_s > timeout_s + _SLACK_S]
    # A connection that breaks is UNAVAILABLE of gRPC's own making, without a reason.
    strange = [
        outcome
        for outcome in outcomes
        if not outcome.is_ok
        and documented.get(outcome.reason) != outcome.code
        and (outcome.reason or outcome.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"))
    ]
    codes = dict(Counter(outcome.code for outcome in outcomes))
    return Verdict(
        claim=f"{what} under load: every call ends in a result or a documented status in its deadline",
        measured=f"{codes}; {len(late)} late, {len(strange)} undocumented",
        holds=not late and not strange and any(not outcome.is_ok for outcome in outcomes),
    )


def judge_recovery(outcomes: Sequence[Outcome], *, expected: Outcome, began_s: float, within_s: float) -> Verdict:
    """Look for the last failure after a fault, and compare the answers since with one of before."""
    failures = [outcome for outcome in outcomes if not outcome.is_ok]
    last_failure_s = max((outcome.began_s + outcome.latency_s for outcome in failures), default=began_s)
    recovered = [outcome for outcome in outcomes if outcome.is_ok and outcome.began_s > last_failure_s]
    wrong = [outcome for outcome in recovered if best(outcome) != best(expected)]
    return Verdict(
        claim=f"correct again within {within_s:g} s",
        measured=f"{last_failure_s - began_s:.1f} s; {len(recovered)} answers since, {len(wrong)} wrong",
        holds=last_failure_s - began_s <= within_s and bool(recovered) and not wrong,
    )


def _asker(stub: Any, request: Any, target: Target, timeout_s: float) -> Caller:
    return lambda: call(stub.Classify, request, target, timeout_s=timeout_s)


def best(outcome: Outcome) -> object:
    """Return label and cosine of each image's first prediction."""
    results = outcome.answer.results if outcome.answer else ()
    return [(one.classification.predictions[0].label, round(one.classification.predictions[0].cosine, 2))
            for one in results if one.classification.predictions]  # fmt: skip


async def measure_drain(service: Service, target: Target, *, callers: int, before_s: float = 3.0) -> list[Verdict]:
    """Tell the whole service to stop under load; it does not come back."""
    request = make_request([make_image(32, seed=seed) for seed in range(4)], _LABELS)
    supervisor = service.pids()["serve"]
    outcomes: list[Outcome] = []

    async def caller(stub: Any) -> None:
        while True:
            outcome = await call(stub.Classify, request, target, timeout_s=30)
            outcomes.append(outcome)
            if not outcome.is_ok and outcome.code != "RESOURCE_EXHAUSTED":
                return

    async with connect(target, connections=callers) as stubs:
        load = asyncio.gather(*(caller(stub) for stub in stubs))
        await asyncio.sleep(before_s)
        os.kill(supervisor, signal.SIGTERM)
        await asyncio.wait_for(load, 90)
    while service.status()["running"]:
        await asyncio.sleep(0.5)
    return judge_drain(outcomes, service.gateway_log())


def judge_drain(outcomes: Sequence[Outcome], log: Sequence[dict[str, object]]) -> list[Verdict]:
    """Compare what callers got with what the gateway's log says of the same calls."""
    logged = {str(line["request_id"]): str(line["code"]) for line in log if line.get("event") == "call"}
    reasons = {str(line["request_id"]): line.get("reason") for line in log if line.get("event") == "call"}
    accepted = {request_id for request_id in logged if reasons[request_id] != "SHUTTING_DOWN"}
    lost = [one for one in outcomes if one.request_id in accepted and one.code != logged[one.request_id]]
    # Never accepted: refused with the reason, or the connection was gone before the call was sent.
    unknown = [
        one
        for one in outcomes
        if not one.is_ok
        and one.request_id not in logged
        and "onnect" not in one.message
        and "GOAWAY" not in one.message
    ]
    drained = any(line.get("event") == "stopped" and line.get("drained") for line in log)
    served = sum(one.is_ok for one in outcomes)
    return [
        Verdict(
            claim="SIGTERM under load: no accepted call is lost",
            measured=f"{served} calls answered, {len(lost)} accepted and lost, {len(unknown)} of unknown fate"
            + (f" {sorted({one.message for one in unknown})}" if unknown else "")
            + f"; drained: {drained}",
            holds=bool(served) and drained and not lost and not unknown,
        )
    ]


async def measure_soak(service: Service, target: Target, *, requests: int, callers: int) -> list[Verdict]:
    """Many different requests; memory of every process, sampled all along."""
    samples: list[dict[str, int]] = []
    left = iter(range(requests))
    codes: Counter[str] = Counter()

    async def caller(stub: Any) -> None:
        for number in left:  # shared: each caller takes the next one
            if number % max(1, requests // 100) == 0:
                samples.append(service.resident_bytes())
            outcome = await call(stub.Classify, _soak_request(number), target, timeout_s=60)
            codes[outcome.code] += 1
            if outcome.retry_s:
                await asyncio.sleep(outcome.retry_s)

    async with connect(target, connections=callers) as stubs:
        await asyncio.gather(*(caller(stub) for stub in stubs))
    return judge_soak(samples, codes=dict(codes), requests=requests)


def _soak_request(number: int) -> Any:
    generator = random.Random(number)
    labels = [f"thing {generator.randrange(10**6)}" for _ in range(generator.randint(2, 12))]
    image = make_image(generator.randint(8, 160), seed=number % 64, height_px=generator.randint(8, 160))
    return make_request([image], sorted(set(labels)))


def judge_soak(samples: Sequence[dict[str, int]], *, codes: dict[str, int], requests: int) -> list[Verdict]:
    """Compare the memory around the middle with that at the end."""
    half, tenth = len(samples) // 2, max(1, len(samples) // 10)
    growth: dict[str, float] = {}
    for name in set(samples[half]) & set(samples[-1]):
        middle = [sample[name] for sample in samples[half : half + tenth] if name in sample]
        end = [sample[name] for sample in samples[-tenth:] if name in sample]
        growth[name] = (sum(end) / len(end)) / (sum(middle) / len(middle)) - 1
    most = sorted(growth, key=lambda name: -growth[name])
    gone = sorted(set(samples[half]) ^ set(samples[-1]))
    return [
        Verdict(
            claim=f"{requests:,} requests with changing labels and sizes: no process grows 5 % over the second half",
            measured=", ".join(f"{name} {100 * growth[name]:+.1f} %" for name in most[:3])
            + f", the other {len(most[3:])} processes less; {codes}"
            + (f"; not there all the time: {gone}" if gone else ""),
            holds=growth[most[0]] < 0.05 and not gone,
        )
    ]
