"""Time by stage: differences of Triton's statistics and of the gateway's histograms."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from benchmarks.serving.systems import read_page

__all__ = ["Totals", "between", "parse_gateway", "parse_image_path", "parse_triton", "read_stages"]

Totals = dict[str, tuple[float, float]]
"""Stage to how often it happened and how many milliseconds it took in all."""

_NS_PER_MS = 1e6
_HISTOGRAM = re.compile(r'^clipsr_gateway_(stage|call)_seconds_(sum|count)\{(?:stage|method)="([^"]+)"\} (\S+)$', re.M)

_EXECUTIONS = re.compile(r'^nv_inference_exec_count\{model="image_path"[^}]*\} (\S+)$', re.M)
_STEP_SECONDS = re.compile(r'^clipsr_image_path_seconds_total\{step="([^"]+)"\} (\S+)$', re.M)


def read_stages(pages: Mapping[str, str]) -> Totals:
    """Read the pages of a service."""
    totals = parse_triton(read_page(pages["triton"])) | parse_gateway(read_page(pages["gateway"]))
    return totals | parse_image_path(read_page(pages["metrics"]))


def parse_triton(page: str) -> Totals:
    """Read `/v2/models/stats`: for every model its waiting and its computing, by request, and how large batches were.

    Times are a request's: all requests of a batch wait for the whole batch. Source: Triton's statistics extension.
    """
    totals: Totals = {}
    for model in json.loads(page)["model_stats"]:
        times = model["inference_stats"]
        for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
            entry = times.get(stage, {})
            totals[f"{model['name']}: {stage}"] = (float(entry.get("count", 0)), float(entry.get("ns", 0)) / _NS_PER_MS)
        # Images an execution, under the same roof: so many executions, so many images.
        executions, images = float(model.get("execution_count", 0)), float(model.get("inference_count", 0))
        totals[f"{model['name']}: batch size"] = (executions, images)
    return totals


def parse_image_path(page: str) -> Totals:
    """Read Triton's Prometheus page: the steps of `image_path`, where one process does them all, by execution.

    They are brought up to date once a second.
    """
    executions = sum(map(float, _EXECUTIONS.findall(page)))
    steps = _STEP_SECONDS.findall(page)
    return {f"image_path: {step}, an execution": (executions, 1e3 * float(seconds)) for step, seconds in steps}


def parse_gateway(page: str) -> Totals:
    """Read the Prometheus page of the gateway: its stages, and whole calls."""
    parts: dict[str, dict[str, float]] = {}
    for kind, field, name, value in _HISTOGRAM.findall(page):
        parts.setdefault(f"gateway {kind}: {name}", {})[field] = float(value)
    return {name: (part.get("count", 0.0), 1e3 * part.get("sum", 0.0)) for name, part in parts.items()}


def between(before: Totals, after: Totals) -> dict[str, dict[str, float]]:
    """Return count and mean of every stage that happened between two readings; the mean is in milliseconds."""
    found: dict[str, dict[str, float]] = {}
    for name, (count, total) in after.items():
        earlier = before.get(name, (0.0, 0.0))
        n = count - earlier[0]
        if n > 0:
            found[name] = {"count": n, "mean": (total - earlier[1]) / n}
    return found
