"""What to ask, how often and for how long; plain data that travels to the generator's processes as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from benchmarks.load.access import Access

__all__ = ["ClosedLoop", "Kind", "OpenLoop", "Plan", "Target"]

Kind = Literal["grpc", "grpc-stream", "multipart", "json-base64", "infinity"]
"""How a system is asked: the typed API (a call, or a stream), an HTTP form with the file, JSON with the file in base64,
or infinity's embeddings call."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running system.

    Attributes:
        kind: how it is asked.
        url: HOST:PORT for gRPC, or ipv4:HOST:PORT,HOST:PORT for several servers in turn; the full address for HTTP.
        labels: for gRPC: the labels of every request; the HTTP baselines hold theirs from their start.
        label_set: for gRPC: name of a published label set, instead of labels.
        route: for gRPC: `upscaled`, `native` or `auto`.
        images_per_call: images in each call of Classify; everything else takes one at a time.
        access: for gRPC: TLS and API key.

    Raises:
        ValueError: several images a call, of a kind that takes one.
    """

    kind: Kind
    url: str
    labels: tuple[str, ...] = ()
    label_set: str = ""
    route: Literal["auto", "upscaled", "native"] = "auto"
    images_per_call: int = 1
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        if self.images_per_call < 1 or (self.images_per_call > 1 and self.kind != "grpc"):
            raise ValueError(f"{self.images_per_call} images a call of {self.kind}: only grpc takes more than one")


@dataclass(frozen=True, kw_only=True)
class ClosedLoop:
    """Callers that each ask again as soon as they are answered; latency counts from sending.

    Such callers slow down with the service, so their latencies say nothing about callers who do not.
    """

    callers: int

    def __post_init__(self) -> None:
        if self.callers < 1:
            raise ValueError(f"callers is {self.callers}; at least one must ask")


@dataclass(frozen=True, kw_only=True)
class OpenLoop:
    """Calls that begin at random times (Poisson), independent of earlier calls.

    Latency counts from the time at which a call was *meant* to begin: a generator or a service that falls behind
    does not hide the waiting (coordinated omission).
    """

    rate: float

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate is {self.rate}; it must be above 0 calls a second")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One measurement.

    Attributes:
        target: whom to ask.
        loop: how often.
        images_from: Parquet file or folder of images; see `benchmarks.load.images`.
        n_images: different images that are sent in turn.
        warm_up_s: seconds before the measured time; calls meant to begin then are not counted.
        measure_s: seconds that count.
        timeout_s: of one call.
        connections: of one process; callers share them in turn. 0 gives every caller of a closed loop its own. Callers
            who share a stream keep as many images in flight on it as they are.
        seed: of the arrival times.
    """

    target: Target
    loop: ClosedLoop | OpenLoop
    images_from: str
    n_images: int = 64
    warm_up_s: float = 2.0
    measure_s: float = 10.0
    timeout_s: float = 30.0
    connections: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warm_up_s < 0 or self.measure_s <= 0:
            raise ValueError("warm_up_s must not be negative, and measure_s must be above 0")

    def share(self, i: int, n: int) -> Plan:
        """Return the part of process `i` of `n`; all parts together are the plan.

        Poisson arrivals of several sources at rates r are Poisson arrivals at the sum of r.

        Raises:
            ValueError: there are fewer callers than processes.
        """
        loop = self.loop
        if isinstance(loop, OpenLoop):
            return replace(self, loop=OpenLoop(rate=loop.rate / n), seed=self.seed * n + i)
        return replace(self, loop=ClosedLoop(callers=(loop.callers + i) // n), seed=self.seed * n + i)

    def to_json(self) -> str:
        """Return the plan as one line of JSON."""
        return json.dumps({**asdict(self), "loop": {"open": isinstance(self.loop, OpenLoop), **asdict(self.loop)}})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote."""
        fields: dict[str, Any] = json.loads(text)
        target: dict[str, Any] = fields.pop("target")
        labels, access = tuple(target.pop("labels")), Access(**target.pop("access"))
        loop: dict[str, Any] = fields.pop("loop")
        is_open = loop.pop("open")
        return cls(
            target=Target(labels=labels, access=access, **target),
            loop=OpenLoop(**loop) if is_open else ClosedLoop(**loop),
            **fields,
        )
