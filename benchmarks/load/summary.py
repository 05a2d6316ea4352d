"""Percentiles, throughput and errors of many calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["OK", "Sample", "Summary", "percentile", "summarize"]

OK = "OK"


@dataclass(frozen=True)
class Sample:
    """One call; times are of the monotonic clock, which all processes of a machine share.

    Attributes:
        due_s: when it was meant to begin; in a closed loop, when it was sent.
        sent_s: when it was sent.
        ended_s: when its answer had arrived.
        status: `OK`, or the name of the status or error.
    """

    due_s: float
    sent_s: float
    ended_s: float
    status: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of a plan.

    Attributes:
        throughput: images whose answers arrived in the measured time, a second; of a call that failed in part, none.
        latency_ms: percentiles by name (p50, p90, p99, p99.9, max) of the calls that succeeded and were meant to begin
            in the measured time, in milliseconds from then; empty if there are none.
        n_calls: calls meant to begin in the measured time.
        errors: how many of them ended otherwise, by status.
        lag_ms: 99th percentile of the generator's own delay from the intended to the actual time of sending. Where it
            is not small against the latency, the generator was short of processor time.
    """

    throughput: float
    latency_ms: Mapping[str, float]
    n_calls: int
    errors: Mapping[str, int]
    lag_ms: float


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Return the smallest value that at least this fraction of the values does not exceed (nearest rank).

    Args:
        ordered: values in ascending order, at least one.
        fraction: above 0, at most 1, in steps of 0.0001.

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("no values, so no percentile")
    # In integers: 0.999 * 1000 is above 999 in floats.
    return ordered[-(-len(ordered) * round(fraction * 10_000) // 10_000) - 1]


def summarize(samples: Sequence[Sample], *, begin_s: float, measure_s: float, images_per_call: int = 1) -> Summary:
    """Summarize the calls of the measured time, which begins at `begin_s`; the warm-up before it is left out."""
    end_s = begin_s + measure_s
    counted = [s for s in samples if begin_s <= s.due_s < end_s]
    answered = sum(s.status == OK and begin_s <= s.ended_s < end_s for s in samples)
    latencies = sorted(1e3 * (s.ended_s - s.due_s) for s in counted if s.status == OK)
    lags = sorted(1e3 * (s.sent_s - s.due_s) for s in counted)
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return Summary(
        throughput=answered * images_per_call / measure_s,
        latency_ms={name: percentile(latencies, f) for name, f in points.items()} if latencies else {},
        n_calls=len(counted),
        errors=dict(Counter(s.status for s in counted if s.status != OK)),
        lag_ms=percentile(lags, 0.99) if lags else 0.0,
    )
