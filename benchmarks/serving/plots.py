"""Throughput against callers, latency against offered load, time by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.measure import Measurement
from benchmarks.serving.report import measurements

__all__ = ["draw", "plot_latency", "plot_stages", "plot_throughput"]

_SIZE_IN = (6.4, 4.0)
_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")


def draw(parts: Mapping[str, Any], folder: Path, name: str) -> dict[str, Path]:
    """Draw what there is; returns part to file."""
    drawn: dict[str, Path] = {}
    if "sweep" in parts:
        drawn["sweep"] = folder / f"{name}-throughput.png"
        plot_throughput(measurements(parts["sweep"]), drawn["sweep"])
    if "load" in parts:
        drawn["load"] = folder / f"{name}-latency.png"
        plot_latency(measurements(parts["load"]), drawn["load"])
    if "stages" in parts:
        drawn["stages"] = folder / f"{name}-stages.png"
        plot_stages(list(parts["stages"]["stages"].values())[-1], drawn["stages"])
    return drawn


def plot_throughput(found: Sequence[Measurement], path: Path) -> None:
    """Draw images a second over the number of callers, a line a system."""
    figure, (axes,) = _figure("callers, each with one image at a time", "images a second")
    for system in dict.fromkeys(m.system for m in found):
        points = [(int(m.load.split()[0]), m.images_per_s) for m in found if m.system == system and m.latency_ms]
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=system)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _save(figure, path)


def plot_latency(found: Sequence[Measurement], path: Path) -> None:
    """Draw percentiles of latency, counted from the intended sending, over the offered rate; a panel a system."""
    systems = list(dict.fromkeys(m.system for m in found))
    figure, panels = _figure("offered load, images a second (Poisson)", "latency, ms", n_panels=len(systems))
    for system, axes in zip(systems, panels, strict=True):
        points = [(float(m.load.split()[0]), m.latency_ms) for m in found if m.system == system]
        for name in ("p50", "p90", "p99", "p99.9"):
            axes.plot([rate for rate, _ in points], [latency[name] for _, latency in points], marker="o", label=name)
        axes.set_title(system, fontsize="medium")
        axes.set_yscale("log")
    panels[0].legend(frameon=False)
    _save(figure, path)


def plot_stages(stages: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw what a request waits and computes in each model of Triton."""
    models = [m for m in dict.fromkeys(n.split(":")[0] for n in stages) if not m.startswith("gateway")]
    # An ensemble holds the others.
    models = [m for m in models if not m.startswith(("classify", "embed_image"))]
    figure, (axes,) = _figure("ms a request", "")
    left = [0.0] * len(models)
    for stage in _STAGES:
        widths = [stages.get(f"{m}: {stage}", {}).get("mean", 0.0) for m in models]
        axes.barh(models, widths, left=left, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.legend(frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path)
    pyplot.close(figure)


def _figure(x_label: str, y_label: str, *, n_panels: int = 1) -> tuple[Any, list[Any]]:
    """Return a figure of panels side by side with one vertical axis.

    Matplotlib is imported only where something is drawn.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    size = (_SIZE_IN[0] * (1 + n_panels) / 2, _SIZE_IN[1])
    figure, grid = pyplot.subplots(1, n_panels, figsize=size, layout="constrained", dpi=150, sharey=True, squeeze=False)
    panels = list(grid[0])
    for axes in panels:
        axes.set_xlabel(x_label)
    panels[0].set_ylabel(y_label)
    return figure, panels
