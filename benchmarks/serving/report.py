"""Whether what was measured is what the project promises; the tables are in `benchmarks.serving.tables`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.baselines.engines import OPENVINO_INT8
from benchmarks.serving.measure import Measurement, Range, ratio

__all__ = ["CLIPSR", "NATIVE", "Aim", "aims", "measurements", "series"]

CLIPSR, NATIVE = "clipsr", "clipsr, native route"
# Images a second of the model that ships, by how it is asked.
_SMALL_PER_S = {"one image a call": 400.0, "8 images a call": 450.0, "streams of 16 images in flight": 500.0}


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A promise.

    Attributes:
        name: what is promised.
        value: what was found.
        limit: the promise; None where there is none.
        is_floor: whether the value must be at least the limit, or at most.
        unit: printed after the numbers.
        part: of the benchmark, which measured it.
    """

    name: str
    value: Range
    limit: float | None
    is_floor: bool
    unit: str
    part: str

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps the promise; None where there is none."""
        if self.limit is None:
            return None
        return self.value.median >= self.limit if self.is_floor else self.value.median <= self.limit


def measurements(section: Mapping[str, Any]) -> list[Measurement]:
    """Return what a part of the record holds."""
    return [Measurement(**fields) for fields in section["measurements"]]


def series(found: Sequence[Measurement], value: Callable[[Measurement], float]) -> dict[tuple[str, str], list[float]]:
    """Return a value of each system and load by round."""
    by_load: dict[tuple[str, str], dict[int, float]] = {}
    for m in found:
        by_load.setdefault((m.system, m.load), {})[m.round] = value(m)
    return {key: [by_round[i] for i in sorted(by_round)] for key, by_round in by_load.items()}


def aims(parts: Mapping[str, Any]) -> list[Aim]:
    """Compare with what the project promises, as far as it was measured.

    Args:
        parts: of the record, by name.
    """
    results: list[Aim] = []
    if "compare" in parts:
        section = parts["compare"]
        found = measurements(section)
        results += _throughput_aims(found, section["bare"])
    if "latency" in parts:
        results += _latency_aims(parts["latency"])
    if "labels" in parts:
        results += _label_aims(parts["labels"])
    if "small" in parts:
        rates = series(measurements(parts["small"]), lambda m: m.images_per_s)
        for (system, load), values in rates.items():
            way = system.partition(", ")[2]
            name, value, limit = f"small model, images a second: {way}, {load}", Range.of(values), _SMALL_PER_S.get(way)
            results.append(Aim(name=name, value=value, limit=limit, is_floor=True, unit="/s", part="small"))
    if "start" in parts:
        value = Range.of(parts["start"]["first_answer_s"])
        name = "start to first answer, warm caches"
        results.append(Aim(name=name, value=value, limit=6.0, is_floor=False, unit=" s", part="start"))
    if "compare" in parts:
        results += _memory_aims(measurements(parts["compare"]))
    return results


def _throughput_aims(found: Sequence[Measurement], bare: str) -> list[Aim]:
    rates = series(found, lambda m: m.images_per_s)
    busiest = _busiest(found)
    own = rates[CLIPSR, busiest]
    limits = {"infinity": 4.0, "FastAPI + open_clip": 2.0, "LitServe": 2.0}
    int8: tuple[str, str] = (f"bare {OPENVINO_INT8}", "batch 8")
    # Of bare engines, the one that does what the service does.
    bares: dict[tuple[str, str], float] = {int8: 0.85} if int8 in rates else {(bare, "batch 8"): 0.7}
    results = []
    for system, load in rates:
        if system not in (CLIPSR, NATIVE) and load in (busiest, "batch 8"):
            limit = bares.get((system, load), limits.get(system))
            name = f"throughput, {busiest}: against {system}{f', {load}' if load != busiest else ''}"
            value = ratio(own, rates[system, load])
            results.append(Aim(name=name, value=value, limit=limit, is_floor=True, unit="×", part="compare"))
    cost = series(found, lambda m: m.cpu_ms)
    if all(cost.get(int8, [0.0])):  # records of earlier versions have none of bare engines
        name = f"processor time an image, {busiest}: against {', '.join(int8)}"
        value = ratio(cost[CLIPSR, busiest], cost[int8])
        results.append(Aim(name=name, value=value, limit=1.3, is_floor=False, unit="×", part="compare"))
    return results


def _latency_aims(section: Mapping[str, Any]) -> list[Aim]:
    parts = {
        CLIPSR: ("the bare stages", ("decode", "upscale", "image_encoder", "similarity")),
        NATIVE: ("the bare encoder", ("image_encoder",)),
    }
    results = []
    for system, (what, names) in parts.items():
        turns = zip(section["p50_ms"][system], section["bare_stages_ms"], strict=True)
        over = Range.of([own - sum(stages[n] for n in names) for own, stages in turns])
        name = f"latency (p50), 1 caller, {system}: over {what}"
        results.append(Aim(name=name, value=over, limit=2.5, is_floor=False, unit=" ms", part="latency"))
    return results


def _label_aims(section: Mapping[str, Any]) -> list[Aim]:
    results = []
    p50 = section["p50_ms"]
    least = min(p50, key=int)
    for n in sorted(p50, key=int)[1:]:
        over = Range.of([a - b for a, b in zip(p50[n], p50[least], strict=True)])
        limit = {1_000: 1.0, 10_000: 5.0}.get(int(n))
        name = f"latency (p50), 1 caller, {int(n):,} cached labels: over {least}"
        results.append(Aim(name=name, value=over, limit=limit, is_floor=False, unit=" ms", part="labels"))
    if section["torch_text_s"]:
        value = ratio(section["new_labels_s"], section["torch_text_s"])
        name = f"{section['n_new_labels']:,} new labels usable: time against PyTorch's for embedding them"
        results.append(Aim(name=name, value=value, limit=1.0, is_floor=False, unit="×", part="labels"))
    return results


def _memory_aims(found: Sequence[Measurement]) -> list[Aim]:
    busiest = _busiest(found)
    memory = series(found, lambda m: m.memory_mb)[CLIPSR, busiest]
    name = f"memory of all processes (PSS), {busiest}"
    return [Aim(name=name, value=Range.of(memory), limit=1500.0, is_floor=False, unit=" MB", part="compare")]


def _busiest(found: Sequence[Measurement]) -> str:
    return max((int(m.load.split()[0]), m.load) for m in found if m.latency_ms)[1]
