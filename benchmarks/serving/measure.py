"""What is measured, in rounds: every system once in each, so that a machine that drifts is fair to all."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from benchmarks.baselines.labels import make_labels
from benchmarks.load import ClosedLoop, OpenLoop, Plan, run_load
from benchmarks.load.generator import LoadResult
from benchmarks.load.summary import OK
from benchmarks.serving.stages import between, read_stages
from benchmarks.serving.systems import BareSystem, Server

__all__ = [
    "CallPattern",
    "Measurement",
    "Range",
    "Setting",
    "closed",
    "compare",
    "first_answer_s",
    "label_costs",
    "latency_alone",
    "make_known",
    "offered_load",
    "ratio",
    "stage_times",
    "sweep",
    "ways",
    "with_pattern",
]

# Labels that become known with one call, while a long list is made known: the call ends long before its deadline.
_PORTION = 1_000
_FIRST_ANSWER_TIMEOUT_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How much is measured.

    Attributes:
        images: where the images come from, as `benchmarks.load.images` has it.
        n_rounds: rounds of the comparison.
        measure_s, warm_up_s: of each load.
        n_turns, turn_s, turn_warm_up_s: of one caller where differences of milliseconds count: turns so short that a
            machine that drifts is the same within each.
        callers: numbers of callers of the comparison: throughput is read at the last.
        sweep_callers: of the plot of throughput.
        load_shares: offered rates of the plot of latency, as shares of the capacity found.
        batches: of the bare engines.
        label_counts: cached labels.
        n_new_labels: that become usable.
        n_new_rounds: how often; each takes PyTorch most of a minute.
        processes: of the load generator.
    """

    images: str
    n_rounds: int = 5
    measure_s: float = 10.0
    warm_up_s: float = 3.0
    n_turns: int = 20
    turn_s: float = 2.0
    turn_warm_up_s: float = 0.5
    callers: tuple[int, ...] = (1, 16)
    sweep_callers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    load_shares: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
    batches: tuple[int, ...] = (1, 8)
    label_counts: tuple[int, ...] = (10, 1_000, 10_000)
    n_new_labels: int = 1_000
    n_new_rounds: int = 3
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class CallPattern:
    """How the service is asked.

    Attributes:
        name: as the tables print it.
        callers: who wait for their answers; on streams, images in flight.
        kind: `grpc` or `grpc-stream`.
        images_per_call: of `grpc`.
        streams: that the callers of `grpc-stream` share; 0 for one each.
    """

    name: str
    callers: int
    kind: Literal["grpc", "grpc-stream"] = "grpc"
    images_per_call: int = 1
    streams: int = 0


def ways(callers: int) -> tuple[CallPattern, ...]:
    """One image a call, several, and streams: what keeps the service busy, for a comparison with so many callers."""
    batched, streams = max(1, callers // 2), max(1, callers // 4)
    return (
        CallPattern(name="one image a call", callers=2 * callers),
        CallPattern(name="8 images a call", callers=batched, images_per_call=8),
        CallPattern(name="streams of 16 images in flight", callers=16 * streams, kind="grpc-stream", streams=streams),
    )


def with_pattern(server: Server, way: CallPattern) -> Server:
    """Return the server under the name of a way, asked that way."""
    target = replace(server.target, kind=way.kind, images_per_call=way.images_per_call)
    return replace(server, name=f"{server.name}, {way.name}", target=target)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One load on one system.

    Attributes:
        system: its name.
        load: `16 callers`, `4 streams`, `40 images/s` or `batch 8`.
        round: from 0.
        images_per_s: that were answered.
        latency_ms: percentiles; empty for the bare engines.
        measure_s: the measured seconds.
        n_calls, errors: calls that count (of one image or of several), and those that failed, by status.
        cpu_s: processor seconds of all processes of the system in the measured time.
        memory_mb: PSS of all processes at the end.
        processes: name to processor seconds, RSS and PSS.
        generator: what the load generator itself took in the measured time: its lag and its processor seconds.
    """

    system: str
    load: str
    round: int
    images_per_s: float
    latency_ms: Mapping[str, float]
    measure_s: float = 0.0
    n_calls: int = 0
    errors: Mapping[str, int]
    cpu_s: float = 0.0
    memory_mb: float = 0.0
    processes: Mapping[str, Any]
    generator: Mapping[str, float]

    @property
    def cpu_ms(self) -> float:
        """Processor time an image, of all images, those included whose calls began before the measured time."""
        return 1e3 * self.cpu_s / max(self.images_per_s * self.measure_s, 1)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Median of a quantity over the rounds, with its least and its greatest value."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """Summarize one value a round.

        Raises:
            ValueError: there are none.
        """
        if not values:
            raise ValueError("a range needs at least one round")
        return cls(median=statistics.median(values), low=min(values), high=max(values))


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Range:
    """Divide round by round, so that a slow round is slow on both sides; then summarize."""
    return Range.of([n / d for n, d in zip(numerator, denominator, strict=True)])


def log(line: str) -> None:
    """Report progress where it does not mix with the tables."""
    print(line, file=sys.stderr, flush=True)


def compare(servers: Sequence[Server], bares: Sequence[BareSystem], setting: Setting) -> Iterator[list[Measurement]]:
    """Measure every system in every round; the order rotates, and only one works at a time.

    Yields:
        After each round its measurements.
    """
    systems: list[Server | BareSystem] = [*servers, *bares]
    for i in range(setting.n_rounds):
        began_s = time.monotonic()
        start = i % len(systems)
        found = [m for system in systems[start:] + systems[:start] for m in _turn(system, setting, i)]
        log(f"round {i + 1} of {setting.n_rounds}: {time.monotonic() - began_s:.0f} s")
        yield found


def _turn(system: Server | BareSystem, setting: Setting, number: int) -> list[Measurement]:
    if isinstance(system, BareSystem):
        found = {b: system.ask(batch=b, seconds=setting.measure_s) for b in setting.batches}
        return [bare_measurement(system.name, batch, each, number) for batch, each in found.items()]
    with system.working():
        return [closed(system, callers, setting, number) for callers in setting.callers]


def bare_measurement(name: str, batch: int, found: Mapping[str, float], number: int) -> Measurement:
    """Return a measurement of a bare engine, which found `images_per_s`, and `cpu_ms` of processor time an image."""
    return Measurement(
        system=name,
        load=f"batch {batch}",
        round=number,
        images_per_s=found["images_per_s"],
        latency_ms={},
        measure_s=1.0,
        errors={},
        cpu_s=found["images_per_s"] * found["cpu_ms"] / 1e3,
        processes={},
        generator={},
    )


def closed(server: Server, callers: int, setting: Setting, number: int = 0, *, streams: int = 0) -> Measurement:
    """Measure so many callers that wait for their answers; they share `streams`, if there are any."""
    plan = _plan(server, ClosedLoop(callers=callers), setting, number)
    plan = replace(plan, connections=max(1, streams // setting.processes) if streams else 0)
    result = run_load(plan, processes=setting.processes, watch=server.pids)
    load = _count(streams, "stream") if streams else _count(callers, "caller")
    return _measurement(server, load, number, setting, result)


def _count(n: int, what: str) -> str:
    return f"{n} {what}s" if n > 1 else f"1 {what}"


def _plan(server: Server, loop: ClosedLoop | OpenLoop, setting: Setting, number: int) -> Plan:
    return Plan(
        target=server.target,
        loop=loop,
        images_from=setting.images,
        warm_up_s=setting.warm_up_s,
        measure_s=setting.measure_s,
        seed=number,
    )


def _measurement(server: Server, load: str, number: int, setting: Setting, result: LoadResult) -> Measurement:
    summary = result.summary
    if not summary.latency_ms:
        raise RuntimeError(
            f"{server.name} answered none of the {summary.n_calls} calls that {load} began in {setting.measure_s:g} s "
            f"(failed: {dict(summary.errors)}; the first failure: {_first_failure(result)}); if there were none, "
            "measure for longer with --seconds"
        )
    return Measurement(
        system=server.name,
        load=load,
        round=number,
        images_per_s=summary.throughput,
        latency_ms=summary.latency_ms,
        measure_s=setting.measure_s,
        n_calls=summary.n_calls,
        errors=summary.errors,
        cpu_s=sum(usage.cpu_s for usage in result.usage.values()),
        memory_mb=sum(u.rss_mb if u.pss_mb is None else u.pss_mb for u in result.usage.values()),
        processes={name: asdict(usage) for name, usage in result.usage.items()},
        generator={"lag_ms": summary.lag_ms, "cpu_s": result.generator_cpu_s},
    )


def _first_failure(result: LoadResult) -> str:
    return next((sample.status for sample in result.samples if sample.status != OK), "nothing")


def sweep(server: Server, setting: Setting) -> list[Measurement]:
    """Throughput against callers."""
    with server.working():
        return [closed(server, callers, setting) for callers in setting.sweep_callers]


def offered_load(server: Server, capacity: float, setting: Setting) -> list[Measurement]:
    """Latency against offered load; the rates are shares of a capacity in images a second, in calls as the server's."""
    found = []
    with server.working():
        for share in setting.load_shares:
            plan = _plan(server, OpenLoop(rate=share * capacity / server.target.images_per_call), setting, 0)
            result = run_load(plan, processes=setting.processes, watch=server.pids)
            found.append(_measurement(server, f"{share * capacity:.1f} images/s", 0, setting, result))
    return found


def stage_times(server: Server, callers: int, setting: Setting) -> dict[str, dict[str, float]]:
    """Where the time of a request goes, from Triton's statistics and the gateway's own times."""
    before = read_stages(server.pages)
    closed(server, callers, setting)
    return between(before, read_stages(server.pages))


def latency_alone(servers: Sequence[Server], bare: BareSystem, setting: Setting) -> dict[str, Any]:
    """Return what one caller waits for each server, and the bare engine's stages, in short turns."""
    short = _short(setting)
    p50_ms: dict[str, list[float]] = {server.name: [] for server in servers}
    stages = []
    for i in range(setting.n_turns):
        stages.append(bare.ask(stages=True, seconds=setting.turn_s / 5))
        for server in servers:
            with server.working():
                p50_ms[server.name].append(closed(server, 1, short, i).latency_ms["p50"])
    return {"p50_ms": p50_ms, "bare_stages_ms": stages}


def _short(setting: Setting) -> Setting:
    return replace(setting, measure_s=setting.turn_s, warm_up_s=setting.turn_warm_up_s)


def label_costs(server: Server, torch_bare: BareSystem | None, setting: Setting) -> dict[str, Any]:
    """Return what cached labels cost one caller, in short turns, and how long new ones take."""
    short = _short(setting)
    p50_ms: dict[int, list[float]] = {n: [] for n in setting.label_counts}
    targets = {n: replace(server.target, labels=tuple(make_labels(n))) for n in setting.label_counts}
    for n, target in targets.items():
        took_s = make_known(replace(server, target=target), setting)
        log(f"{n} labels are cached after {took_s:.1f} s")
    for i in range(setting.n_turns):
        for n, target in targets.items():
            p50_ms[n].append(closed(replace(server, target=target), 1, short, i).latency_ms["p50"])
    new_s, torch_s = [], []
    for i in range(setting.n_new_rounds):
        if torch_bare is not None:
            torch_s.append(torch_bare.ask(n_labels=setting.n_new_labels)["seconds"])
        labels = tuple(make_labels(setting.n_new_labels, series=f"{time.time_ns()}-{i} "))
        new_s.append(first_answer_s(replace(server, target=replace(server.target, labels=labels)), setting))
    return {
        "p50_ms": {str(n): values for n, values in p50_ms.items()},
        "n_new_labels": setting.n_new_labels,
        "new_labels_s": new_s,
        "torch_text_s": torch_s,
    }


def make_known(server: Server, setting: Setting) -> float:
    """Have the service embed the labels of this target, some at a time, then all; returns the seconds."""
    labels = server.target.labels
    parts = [labels[i : i + _PORTION] for i in range(0, len(labels), _PORTION)]
    parts += [labels] if len(parts) > 1 else []
    return sum(first_answer_s(replace(server, target=replace(server.target, labels=part)), setting) for part in parts)


def first_answer_s(server: Server, setting: Setting) -> float:
    """Seconds of one call, made from this process: a call of seconds does not mind.

    Raises:
        RuntimeError: the call or its image failed.
    """
    from benchmarks.load.images import read_images
    from clipsr import Client, ClipsrError, FailedImage

    images = read_images(setting.images, 1)
    begin = time.monotonic()
    try:
        with Client(server.target.url, timeout_s=_FIRST_ANSWER_TIMEOUT_S) as client:
            (outcome,) = client.classify(images, labels=server.target.labels, route=server.target.route)
    except ClipsrError as error:
        raise RuntimeError(f"{server.name} failed: {error}") from error
    if isinstance(outcome, FailedImage):
        raise RuntimeError(f"{server.name} failed: {outcome.message}")
    return time.monotonic() - begin
