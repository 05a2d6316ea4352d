"""Starts the processes of the load generator, lets them begin together, and puts their samples together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.load.plan import ClosedLoop, Plan
from benchmarks.load.processes import Usage, measure_usage
from benchmarks.load.summary import Sample, Summary, summarize

__all__ = ["LoadError", "LoadResult", "run_load"]

_ROOT = Path(__file__).resolve().parents[2]
# From telling the processes the time to that time: reading a line takes them far less.
_NOTICE_S = 0.2


class LoadError(RuntimeError):
    """A process of the load generator failed; the message holds the end of what it wrote."""


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """What came of a plan.

    Attributes:
        summary: percentiles, throughput, errors.
        samples: every call, those of the warm-up included.
        begin_s: monotonic time at which the measured time began.
        usage: processor time and memory of the watched processes in the measured time, by name.
        generator_cpu_s: processor time of the generator itself, its warm-up included.
    """

    summary: Summary
    samples: Sequence[Sample]
    begin_s: float
    usage: dict[str, Usage]
    generator_cpu_s: float


def run_load(plan: Plan, *, processes: int = 1, watch: Sequence[int] = ()) -> LoadResult:
    """Carry out a plan from processes of its own, so that it shares no interpreter with anything that is measured.

    Args:
        plan: what to ask.
        processes: among which its callers, or its rate, are divided; at most one a caller.
        watch: process ids of the system; they and all their descendants are watched in the measured time.

    Raises:
        LoadError: a process of the generator failed.
    """
    n = min(processes, plan.loop.callers) if isinstance(plan.loop, ClosedLoop) else processes
    before_cpu_s = sum(os.times()[2:4])  # of children that ended
    workers = [_start(plan.share(i, n)) for i in range(n)]
    try:
        for worker in workers:
            if _output(worker).readline().strip() != "ready":
                raise LoadError(_complaint(worker))
        start_s = time.monotonic() + _NOTICE_S
        begin_s = start_s + plan.warm_up_s
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{start_s!r}\n")
            worker.stdin.flush()
        usage = measure_usage(watch, begin_s=begin_s, end_s=begin_s + plan.measure_s)
        samples = [sample for worker in workers for sample in _collect(worker)]
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.communicate()
    return LoadResult(
        summary=summarize(samples, begin_s=begin_s, measure_s=plan.measure_s),
        samples=samples,
        begin_s=begin_s,
        usage=usage,
        generator_cpu_s=sum(os.times()[2:4]) - before_cpu_s,
    )


def _start(plan: Plan) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    assert worker.stdin is not None
    worker.stdin.write(plan.to_json() + "\n")
    worker.stdin.flush()
    return worker


def _output(worker: subprocess.Popen[str]) -> IO[str]:
    assert worker.stdout is not None
    return worker.stdout


def _collect(worker: subprocess.Popen[str]) -> list[Sample]:
    line = _output(worker).readline()
    if not line:
        raise LoadError(_complaint(worker))
    return [Sample(*fields) for fields in json.loads(line)]


def _complaint(worker: subprocess.Popen[str]) -> str:
    worker.kill()
    _, errors = worker.communicate()
    return "the load generator failed:\n" + "\n".join(errors.splitlines()[-10:])
