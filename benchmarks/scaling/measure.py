"""What the model is made from, and the run that it is checked against."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.baselines.labels import make_labels
from benchmarks.load.images import MADE_UP
from benchmarks.scaling.model import Demand, Point
from benchmarks.serving.measure import Measurement, Range, Setting, closed, log, make_known, ratio
from benchmarks.serving.stages import between, read_stages
from benchmarks.serving.systems import Folders, Server, StartError, clipsr

__all__ = ["Kind", "check_two_instances", "find_part", "gpu_times", "measure_point", "predict_two", "to_demands"]

# Triton's processes of a model: MODEL_GROUP_INSTANCE, as `benchmarks.load.processes` names them.
_STUB = re.compile(r"^(?P<model>\w+?)_\d+_\d+ \(\d+\)$")
# They run graphs on all the cores that they are given; every other process is a Python program that fills one.
_GRAPHS = ("upscale", "image_encoder", "text_encoder")
_TRITON = "Triton"
_GPU_STAGES = ("compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of request: one image of this side, this many cached labels."""

    size_px: int
    n_labels: int


def find_part(process: str) -> str:
    """Name the part of the service that a process is."""
    if stub := _STUB.match(process):
        return stub["model"]
    if process.startswith("tritonserver"):
        return _TRITON
    return "gateway" if "clipsr-gateway" in process else "launcher"


def to_demands(measurement: Measurement, gpu_ms: Mapping[str, float]) -> tuple[Demand, ...]:
    """Divide the processor time of a measurement by its images, for each part.

    Args:
        measurement: of a busy instance.
        gpu_ms: time of an image on the GPU by model; empty without one.
    """
    n_images = max(measurement.images_per_s * measurement.measure_s, 1)
    cpu_s: dict[str, float] = {}
    n_processes: dict[str, int] = {}
    for name, usage in measurement.processes.items():
        part = find_part(name)
        cpu_s[part] = cpu_s.get(part, 0.0) + usage["cpu_s"]
        n_processes[part] = n_processes.get(part, 0) + 1
    return tuple(
        Demand(
            part=part,
            cpu_ms=1e3 * seconds / n_images,
            gpu_ms=gpu_ms.get(part, 0.0),
            most_cores=None if part in (*_GRAPHS, _TRITON) else n_processes[part],
        )
        for part, seconds in cpu_s.items()
    )


def gpu_times(stages: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Milliseconds of an image on the GPU by graph: of an execution, divided by the images in it.

    Two instances of a model that take turns on the GPU count each other's time too, so this is an upper bound.
    """
    found = {}
    for model in _GRAPHS:
        batch = stages.get(f"{model}: batch size", {}).get("mean", 0.0)
        if batch > 0:
            found[model] = sum(stages.get(f"{model}: {stage}", {}).get("mean", 0.0) for stage in _GPU_STAGES) / batch
    return found


def measure_point(server: Server, kind: Kind, setting: Setting, *, is_gpu: bool) -> Point:
    """Measure one kind of request: a single caller, then as many as keep the instance busy."""
    images = f"{MADE_UP}:{kind.size_px}"
    target = replace(server.target, labels=tuple(make_labels(kind.n_labels)), route="auto")
    asked, here = replace(server, target=target), replace(setting, images=images)
    make_known(asked, here)
    alone = closed(asked, setting.callers[0], here)
    before = read_stages(server.pages)
    busy = closed(asked, setting.callers[-1], here)
    stages = between(before, read_stages(server.pages))
    used_s = busy.cpu_s + busy.generator["cpu_s"]
    log(f"{kind.size_px} px, {kind.n_labels:,} labels: {busy.images_per_s:.1f} images/s")
    return Point(
        size_px=kind.size_px,
        n_labels=kind.n_labels,
        alone_ms=alone.latency_ms["p50"],
        utilization=min(1.0, used_s / (busy.measure_s * len(os.sched_getaffinity(0)))),
        images_per_s=busy.images_per_s,
        demands=to_demands(busy, gpu_times(stages) if is_gpu else {}),
    )


@contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Let what is started meanwhile, and all that it starts, run on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def check_two_instances(folders: Folders, profile: str, setting: Setting) -> dict[str, Any]:
    """Run two instances, each on a core of its own, behind client-side round robin; compare with the model.

    In every round one instance is asked alone, then both in turn by the same callers. From the first the model
    predicts the second.

    Raises:
        StartError: there are fewer than two cores, or an instance does not start.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise StartError("two instances need two cores")
    with ExitStack() as running:
        with on_cores(cores[:1]):
            a = running.enter_context(clipsr(folders, profile=profile, name="first", route="auto"))
        with on_cores(cores[1:]):
            b = running.enter_context(clipsr(folders, profile=profile, name="second", route="auto"))
        with on_cores(cores):  # the callers
            return _measure_both(a, b, setting)


def _measure_both(a: Server, b: Server, setting: Setting) -> dict[str, Any]:
    both = replace(
        a,
        name="both",
        target=replace(a.target, url=f"ipv4:{a.target.url},{b.target.url}"),
        pids=(*a.pids, *b.pids),
    )
    for server in (a, b):
        make_known(server, setting)
    alone: list[Measurement] = []
    together: list[Measurement] = []
    shares: list[float] = []
    for i in range(setting.n_rounds):
        alone.append(closed(a, setting.callers[-1], setting, i))
        before = [read_stages(server.pages) for server in (a, b)]
        together.append(closed(both, setting.callers[-1], setting, i))
        after = [read_stages(server.pages) for server in (a, b)]
        calls = [_calls(old, new) for old, new in zip(before, after, strict=True)]
        shares.append(min(calls) / max(sum(calls), 1))
        log(f"round {i + 1}: one {alone[-1].images_per_s:.1f}, both {together[-1].images_per_s:.1f} images/s")
    predicted = [predict_two(measurement) for measurement in alone]
    measured = [measurement.images_per_s for measurement in together]
    return {
        "one": [asdict(m) for m in alone],
        "both": [asdict(m) for m in together],
        "predicted": asdict(Range.of(predicted)),
        "measured": asdict(Range.of(measured)),
        "measured_over_predicted": asdict(ratio(measured, predicted)),
        "smaller_share_of_calls": asdict(Range.of(shares)),
    }


def predict_two(one: Measurement) -> float:
    """Images a second of two instances on a core each, from one on a core, with the callers on the same two cores.

    One instance used u of its core; two and their callers share two cores that are used as well as that.
    """
    n_images = max(one.images_per_s * one.measure_s, 1)
    own_ms = 1e3 * one.cpu_s / n_images
    u = min(1.0, one.cpu_s / one.measure_s)
    return 2e3 * u / (own_ms + 1e3 * one.generator["cpu_s"] / n_images)


def _calls(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> float:
    entry = between(dict(before), dict(after)).get("gateway call: Classify")
    return 0.0 if entry is None else entry["count"]
