"""Tables of the cost model, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scaling.model import Instance, Load, Point, Sizing, limits, peak_load

__all__ = ["check_table", "demand_table", "render", "saturation_table", "sizing_text"]

# Cores of a pod for the table of what saturates first.
_CORES = (2, 4, 8, 16, 32)


def demand_table(points: Sequence[Point]) -> str:
    """Return what an image costs each part, a row a kind of request."""
    parts = list(dict.fromkeys(d.part for point in points for d in point.demands))
    has_gpu = any(d.gpu_ms for point in points for d in point.demands)
    head = ["image", "labels", *parts, "all, CPU ms", *(["all, GPU ms"] if has_gpu else []), "images/s", "alone, ms"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for point in points:
        cpu_ms = {d.part: d.cpu_ms for d in point.demands}
        gpu = [f"{sum(d.gpu_ms for d in point.demands):.2f}"] if has_gpu else []
        cells = [f"{point.size_px} px", f"{point.n_labels:,}", *(f"{cpu_ms.get(part, 0):.2f}" for part in parts)]
        cells += [f"{sum(cpu_ms.values()):.1f}", *gpu, f"{point.images_per_s:.1f}", f"{point.alone_ms:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def saturation_table(points: Sequence[Point], *, gpus: int) -> str:
    """Return for pods of several sizes the predicted rate and what bounds it."""
    lines = [
        f"| image | labels | {' | '.join(f'{cores} cores' for cores in _CORES)} |",
        f"|---|---|{'---|' * len(_CORES)}",
    ]
    for point in points:
        cells = [f"{point.size_px} px", f"{point.n_labels:,}"]
        for cores in _CORES:
            part, rate = next(iter(limits(point, Instance(cores=cores, gpus=gpus)).items()))
            cells.append(f"{rate:,.0f}, {part}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def check_table(check: Mapping[str, Any]) -> str:
    """Return the run of two instances beside what the model said."""
    rows = (
        ("predicted from one instance, images/s", check["predicted"], ".1f"),
        ("measured, images/s", check["measured"], ".1f"),
        ("measured / predicted", check["measured_over_predicted"], ".3f"),
        ("calls that the less busy instance got", check["smaller_share_of_calls"], ".1%"),
    )
    lines = ["| two instances | median (range) |", "|---|---|"]
    for name, value, form in rows:
        lines.append(f"| {name} | {value['median']:{form}} ({value['low']:{form}} – {value['high']:{form}}) |")
    return "\n".join(lines) + "\n"


def render(record: Mapping[str, Any]) -> str:
    """Return all tables of a record with a line that says where they come from."""
    points = [Point.from_record(point) for point in record.get("points", [])]
    gpus = int(record["profile"].startswith("gpu-"))
    parts: list[str] = []
    if points:
        parts += ["Processor milliseconds of an image, by part:\n", demand_table(points)]
        parts += [
            "Predicted images a second of one pod, and what is used up first:\n",
            saturation_table(points, gpus=gpus),
        ]
    if "two_instances" in record:
        parts += ["The model against two instances on one core each:\n", check_table(record["two_instances"])]
    environment = record["environment"]
    parts.append(
        f"{record['model']} with random weights, profile `{record['profile']}`, by `{record['command']}` on "
        f"{environment['processor']}, {environment['cores']} cores, callers included; load average "
        f"{environment['load_average_before']} before.\n"
    )
    return "\n".join(parts)


def sizing_text(point: Point, instance: Instance, load: Load, sizing: Sizing, *, callers: int | None) -> str:
    """Return the answer to one question, as lines."""
    lines = []
    if callers is not None:
        lines.append(f"{callers} callers that wait ask at most {peak_load(callers, point):,.1f} images/s")
    lines += [
        f"measured on images of {point.size_px} px with {point.n_labels:,} labels",
        f"one pod: {sizing.capacity:,.1f} images/s; used up first: {sizing.bottleneck}",
        *(f"  {name}: {rate:,.1f} images/s" for name, rate in limits(point, instance).items()),
        f"{load.peak:,.1f} images/s at {load.use:.0%} full, {load.spare} spare: {sizing.instances} pods",
    ]
    if sizing.hour is not None and sizing.million is not None:
        lines.append(f"price: {sizing.hour:,.2f} an hour, {sizing.million:,.2f} a million images at the peak")
    return "\n".join(lines)
