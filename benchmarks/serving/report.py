"""Tables of what was measured, and whether it is what the project promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.serving.measure import Measurement, Range, ratio

__all__ = ["Aim", "aims", "comparison_table", "label_table", "ratio_table", "stage_table"]

CLIPSR, NATIVE, SMALL = "clipsr", "clipsr, native route", "clipsr-small"
_Form = Callable[[float], str]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """A promise.

    Attributes:
        name: what is promised.
        value: what was found.
        limit: the promise; None where there is none.
        is_floor: whether the value must be at least the limit, or at most.
        unit: printed after the numbers.
    """

    name: str
    value: Range
    limit: float | None
    is_floor: bool
    unit: str

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps the promise; None where there is none."""
        if self.limit is None:
            return None
        return self.value.median >= self.limit if self.is_floor else self.value.median <= self.limit

    def cells(self) -> str:
        """The row of the Markdown table."""
        value = _range(self.value, lambda v: f"{v:.3g}{self.unit}")
        if self.limit is None:
            return f"| {self.name} | {value} | – |"
        verdict = "met" if self.is_met else "**missed**"
        return f"| {self.name} | {value} | {'≥' if self.is_floor else '≤'} {self.limit:g}{self.unit}, {verdict} |"


def aims(
    found: Sequence[Measurement],
    *,
    bare: str,
    stages: Sequence[Mapping[str, float]],
    more: Mapping[str, Any],
) -> list[Aim]:
    """Compare with what the project promises, as far as it was measured.

    Args:
        found: of the comparison.
        bare: name of the bare engine that the service is held against.
        stages: milliseconds of the bare stages, one mapping a round; empty if not measured.
        more: `labels`, `small`, `first_answer_s` and `memory_mb`, each only if measured.
    """
    rates = _series(found, lambda m: m.images_per_s)
    busiest = max((_callers(m.load), m.load) for m in found if m.latency_ms)[1]
    own = rates[CLIPSR, busiest]
    results: list[Aim] = []
    limits = {"infinity": 3.0, "FastAPI + open_clip": 2.0, "LitServe": 2.0}
    for system, load in rates:
        if system not in (CLIPSR, NATIVE) and load in (busiest, "batch 8"):
            limit = 0.7 if (system, load) == (bare, "batch 8") else limits.get(system)
            name = f"throughput, {busiest}: against {system}{f', {load}' if load != busiest else ''}"
            results.append(Aim(name=name, value=ratio(own, rates[system, load]), limit=limit, is_floor=True, unit="×"))
    results += _latency_aims(found, stages)
    return results + _other_aims(more)


def _latency_aims(found: Sequence[Measurement], stages: Sequence[Mapping[str, float]]) -> list[Aim]:
    latencies = _series([m for m in found if m.load == "1 caller"], lambda m: m.latency_ms["p50"])
    parts = {
        CLIPSR: ("the bare stages", ("decode", "upscale", "image_encoder", "similarity")),
        NATIVE: ("the bare encoder", ("image_encoder",)),
    }
    results = []
    for system, (what, names) in parts.items():
        own = latencies.get((system, "1 caller"))
        if own and stages:
            over = [a - sum(b[n] for n in names) for a, b in zip(own, stages, strict=True)]
            name = f"latency, 1 caller, {system}: over {what}"
            results.append(Aim(name=name, value=Range.of(over), limit=4.0, is_floor=False, unit=" ms"))
    return results


def _other_aims(more: Mapping[str, Any]) -> list[Aim]:
    results = []
    if "labels" in more:
        p50 = more["labels"]["p50_ms"]
        least = min(p50, key=int)
        for n in sorted(p50, key=int)[1:]:
            over = Range.of([a - b for a, b in zip(p50[n], p50[least], strict=True)])
            limit = {1_000: 1.0, 10_000: 5.0}.get(int(n))
            name = f"{int(n):,} cached labels: over {least}"
            results.append(Aim(name=name, value=over, limit=limit, is_floor=False, unit=" ms"))
        if more["labels"]["torch_text_s"]:
            value = ratio(more["labels"]["new_labels_s"], more["labels"]["torch_text_s"])
            name = "new labels usable: against PyTorch embedding them"
            results.append(Aim(name=name, value=value, limit=1.0, is_floor=False, unit="×"))
    simple = (
        ("small", "small model: images a second", 400.0, True, "/s"),
        ("first_answer_s", "start to first answer, warm caches", 20.0, False, " s"),
        ("memory_mb", "memory of all processes", 2500.0, False, " MB"),
    )
    for key, name, limit, is_floor, unit in simple:
        if key in more:
            results.append(Aim(name=name, value=Range.of(more[key]), limit=limit, is_floor=is_floor, unit=unit))
    return results


def ratio_table(results: Sequence[Aim]) -> str:
    """Return the promises as Markdown."""
    return "\n".join(["| measured | median (range) | aim |", "|---|---|---|", *(aim.cells() for aim in results)]) + "\n"


def comparison_table(found: Sequence[Measurement]) -> str:
    """Return a row for each system and load, medians over the rounds with their range, as Markdown."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for m in found:
        groups.setdefault((m.system, m.load), []).append(m)
    lines = [
        "| system | load | images/s | p50, ms | p99, ms | failed | CPU, ms an image | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (system, load), rows in groups.items():
        rate = _range(Range.of([m.images_per_s for m in rows]), lambda v: f"{v:.1f}")
        if not rows[0].latency_ms:
            lines.append(f"| {system} | {load} | {rate} | – | – | – | – | – |")
            continue
        p50, p99 = (Range.of([m.latency_ms[p] for m in rows]) for p in ("p50", "p99"))
        # Of all images, those included whose calls began before the measured time.
        cpu = Range.of([1e3 * m.cpu_s / max(m.images_per_s * m.measure_s, 1) for m in rows])
        memory = Range.of([m.memory_mb for m in rows])
        failed = sum(sum(m.errors.values()) for m in rows)
        lines.append(
            f"| {system} | {load} | {rate} | {_range(p50, _ms)} | {_range(p99, _ms)} | {failed} "
            f"| {cpu.median:.1f} | {memory.median:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def stage_table(stages: Mapping[str, Mapping[str, float]]) -> str:
    """Return where the time of a request goes, as Markdown."""
    lines = ["| stage | mean |", "|---|---|"]
    for name, entry in stages.items():
        unit = "images" if name.endswith("batch size") else "ms"
        lines.append(f"| {name} | {entry['mean']:.2f} {unit} |")
    return "\n".join(lines) + "\n"


def label_table(labels: Mapping[str, Any]) -> str:
    """Return what labels cost, as Markdown."""
    lines = ["| cached labels | latency, 1 caller, ms |", "|---|---|"]
    for n, values in labels["p50_ms"].items():
        lines.append(f"| {int(n):,} | {_range(Range.of(values), _ms)} |")
    return "\n".join(lines) + "\n"


def _series(found: Sequence[Measurement], value: Callable[[Measurement], float]) -> dict[tuple[str, str], list[float]]:
    series: dict[tuple[str, str], dict[int, float]] = {}
    for m in found:
        series.setdefault((m.system, m.load), {})[m.round] = value(m)
    return {key: [by_round[i] for i in sorted(by_round)] for key, by_round in series.items()}


def _callers(load: str) -> int:
    return int(load.split()[0])


def _range(value: Range, form: _Form) -> str:
    return f"{form(value.median)} ({form(value.low)} – {form(value.high)})"


def _ms(value: float) -> str:
    return f"{value:.1f}"
