"""A load generator: callers in processes of their own, closed or open loop, over gRPC or HTTP.

    plan = Plan(target=Target(kind="grpc", url="127.0.0.1:50051"), loop=ClosedLoop(callers=16), ...)
    result = run_load(plan, processes=2)

Percentiles, errors and processor time come from `benchmarks.load.summary` and `benchmarks.load.processes`.
"""

from __future__ import annotations

from benchmarks.load.generator import run_load
from benchmarks.load.plan import ClosedLoop, OpenLoop, Plan, Target
from benchmarks.load.summary import Sample, Summary, summarize

__all__ = ["ClosedLoop", "OpenLoop", "Plan", "Sample", "Summary", "Target", "run_load", "summarize"]
