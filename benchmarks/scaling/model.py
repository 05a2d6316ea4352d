"""The cost model: from what an image costs each part of one instance to pods and money. Arithmetic only.

An instance has cores, perhaps a GPU, and parts that cannot use more than so many cores each. Whatever is used up first
bounds its rate (the utilization law: rate x time an image = share of the resource).

Source: Denning and Buzen 1978, "The Operational Analysis of Queueing Network Models".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Demand",
    "Instance",
    "Load",
    "ModelError",
    "Point",
    "Sizing",
    "choose_point",
    "limits",
    "peak_load",
    "size",
]

ALL_CORES, GPU = "all cores", "GPU"


class ModelError(ValueError):
    """The record holds no measurement for what is asked."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What an image costs one part of the service.

    Attributes:
        part: `gateway`, `Triton`, or a model.
        cpu_ms: processor time of an image.
        gpu_ms: time of an image on the GPU.
        most_cores: that it can use; None for all of them. Python programs use one for each process.
    """

    part: str
    cpu_ms: float
    gpu_ms: float = 0.0
    most_cores: int | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """What was measured for one kind of request on one instance that was as busy as it could be.

    Attributes:
        size_px: side of the images.
        n_labels: cached labels of a request.
        alone_ms: median latency of a single caller.
        utilization: share of the cores that was in use, callers included: what is out of reach even then is waiting
            between the stages.
        images_per_s: the rate then.
        demands: of each part.
    """

    size_px: int
    n_labels: int
    alone_ms: float
    utilization: float
    images_per_s: float
    demands: Sequence[Demand]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Point:
        """Read what `dataclasses.asdict` made of a point."""
        return cls(**{**record, "demands": tuple(Demand(**demand) for demand in record["demands"])})


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One pod, and what an hour of it costs.

    Attributes:
        cores: processor cores.
        gpus: of the kind that was measured.
        hour: price of an hour in any currency; None if nobody asks.
    """

    cores: float
    gpus: int = 0
    hour: float | None = None


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked for.

    Attributes:
        peak: images a second.
        use: how full instances may be at the peak, above 0, at most 1.
        spare: instances more, for one that fails.
    """

    peak: float
    use: float = 0.7
    spare: int = 1


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The answer.

    Attributes:
        capacity: images a second of one instance.
        bottleneck: what is used up first.
        instances: how many are needed, spare ones included.
        hour: price of an hour of all of them; None without prices.
        million: price of a million images at the peak; None without prices.
    """

    capacity: float
    bottleneck: str
    instances: int
    hour: float | None
    million: float | None


def choose_point(points: Sequence[Point], *, size_px: int, n_labels: int) -> Point:
    """Return the cheapest measured kind of request that is at least as large in both respects.

    Raises:
        ModelError: none is.
    """
    fitting = [point for point in points if point.size_px >= size_px and point.n_labels >= n_labels]
    if not fitting:
        measured = ", ".join(f"{p.size_px} px with {p.n_labels:,} labels" for p in points) or "nothing"
        raise ModelError(
            f"nothing as large as {size_px} px with {n_labels:,} labels was measured, only {measured}; measure it: "
            "python -m benchmarks.scaling --measure --points SIZE:LABELS"
        )
    return min(fitting, key=lambda point: (point.size_px, point.n_labels))


def limits(point: Point, instance: Instance) -> dict[str, float]:
    """Return the images a second at which each resource of an instance is used up, the scarcest first."""
    cpu_ms = sum(demand.cpu_ms for demand in point.demands)
    gpu_ms = sum(demand.gpu_ms for demand in point.demands)
    found = {ALL_CORES: 1e3 * instance.cores * point.utilization / cpu_ms}
    if gpu_ms > 0:
        if instance.gpus == 0:
            raise ModelError("this was measured on a GPU; give --gpus, or the record of a run without one")
        found[GPU] = 1e3 * instance.gpus / gpu_ms
    for demand in point.demands:
        if demand.most_cores is not None and demand.cpu_ms > 0:
            usable = min(demand.most_cores, instance.cores)
            found[demand.part] = 1e3 * usable / demand.cpu_ms
    return dict(sorted(found.items(), key=lambda item: item[1]))


def size(point: Point, instance: Instance, load: Load) -> Sizing:
    """Say how many instances a load needs.

    Raises:
        ModelError: the load or the instance is nothing.
    """
    if not (load.peak > 0 and 0 < load.use <= 1 and load.spare >= 0 and instance.cores > 0):
        raise ModelError("peak and cores must be above 0, use above 0 and at most 1, and spare not negative")
    bottleneck, capacity = next(iter(limits(point, instance).items()))
    n = math.ceil(load.peak / (capacity * load.use)) + load.spare
    hour = None if instance.hour is None else n * instance.hour
    million = None if hour is None else hour / (3600 * load.peak) * 1e6
    return Sizing(capacity=capacity, bottleneck=bottleneck, instances=n, hour=hour, million=million)


def peak_load(callers: int, point: Point) -> float:
    """Images a second that so many callers ask for at most, each waiting for its answer: no faster than alone."""
    return 1e3 * callers / point.alone_ms
