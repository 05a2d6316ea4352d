"""Throughput against callers, latency against offered load, time by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.serving.measure import Measurement

__all__ = ["plot_latency", "plot_stages", "plot_throughput"]

_SIZE_IN = (6.4, 4.0)
_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


def plot_throughput(found: Sequence[Measurement], path: Path) -> None:
    """Draw images a second over the number of callers, a line a system."""
    figure, axes = _figure("callers, each with one image at a time", "images a second")
    for system in dict.fromkeys(m.system for m in found):
        points = [(int(m.load.split()[0]), m.images_per_s) for m in found if m.system == system and m.latency_ms]
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=system)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path)


def plot_latency(found: Sequence[Measurement], path: Path) -> None:
    """Draw percentiles of latency, counted from the intended time of sending, over the offered rate."""
    figure, axes = _figure("offered load, images a second (Poisson)", "latency, ms")
    rates = [float(m.load.split()[0]) for m in found]
    for name in ("p50", "p90", "p99", "p99.9"):
        axes.plot(rates, [m.latency_ms[name] for m in found], marker="o", label=name)
    axes.set_yscale("log")
    axes.legend(frameon=False)
    figure.savefig(path)


def plot_stages(stages: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw what a request waits and computes in each model of Triton."""
    models = [m for m in dict.fromkeys(n.split(":")[0] for n in stages) if not m.startswith("gateway")]
    # An ensemble holds the others.
    models = [m for m in models if not m.startswith(("classify", "embed_image"))]
    figure, axes = _figure("ms a request", "")
    left = [0.0] * len(models)
    for stage in _STAGES:
        widths = [stages.get(f"{m}: {stage}", {}).get("mean", 0.0) for m in models]
        axes.barh(models, widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.legend(frameon=False)
    figure.savefig(path)


def _figure(x_label: str, y_label: str):  # noqa: ANN202 - matplotlib is imported only where something is drawn
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE_IN, layout="constrained", dpi=150)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes
