"""Starts the processes of the load generator, lets them begin together, and puts their samples together."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.load.plan import ClosedLoop, Plan
from benchmarks.load.summary import Sample, Summary, summarize

if TYPE_CHECKING:
    from benchmarks.load.processes import Usage

__all__ = ["LoadError", "LoadResult", "run_load"]

_ROOT = Path(__file__).resolve().parents[2]
# From telling the processes the time to that time: reading a line takes them far less.
_NOTICE_S = 0.2
# Importing and connecting; on a machine that has other things to do, long.
_READY_TIMEOUT_S = 180.0
# From the last answer to the samples.
_REPORT_TIMEOUT_S = 60.0


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
        generator_cpu_s: processor seconds of the generator itself in the measured time.
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
    workers: list[_Worker] = []
    try:
        for i in range(n):
            workers.append(_Worker(plan.share(i, n)))
        for worker in workers:
            worker.expect_ready()
        start_s = time.monotonic() + _NOTICE_S
        begin_s = start_s + plan.warm_up_s
        for worker in workers:
            worker.tell(repr(start_s))
        usage = _watch(watch, begin_s=begin_s, end_s=begin_s + plan.measure_s)
        reports = [worker.report(plan.timeout_s + _REPORT_TIMEOUT_S) for worker in workers]
    finally:
        for worker in workers:
            worker.close()
    samples = [Sample(*fields) for report in reports for fields in report["samples"]]
    return LoadResult(
        summary=summarize(
            samples, begin_s=begin_s, measure_s=plan.measure_s, images_per_call=plan.target.images_per_call
        ),
        samples=samples,
        begin_s=begin_s,
        usage=usage,
        generator_cpu_s=sum(report["cpu_s"] for report in reports),
    )


def _watch(pids: Sequence[int], *, begin_s: float, end_s: float) -> dict[str, Usage]:
    """Wait until `end_s` of the monotonic clock; return what the processes used since `begin_s`."""
    if not pids:
        time.sleep(max(0.0, end_s - time.monotonic()))
        return {}
    from benchmarks.load.processes import measure_usage  # psutil is not where a distant service is asked

    return measure_usage(pids, begin_s=begin_s, end_s=end_s)


class _Worker:
    """One process of the generator."""

    def __init__(self, plan: Plan) -> None:
        # A file: a pipe that nobody reads would stop a process that has much to say.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - till close()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=_ROOT,
        )
        self.tell(plan.to_json())

    def tell(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except BrokenPipeError as error:
            raise LoadError(self._complaint("it ended")) from error

    def expect_ready(self) -> None:
        if (line := self._read(_READY_TIMEOUT_S)) != "ready":
            raise LoadError(self._complaint(f"it said {line!r} and not that it is ready"))

    def report(self, timeout_s: float) -> dict[str, Any]:
        return json.loads(self._read(timeout_s))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _read(self, timeout_s: float) -> str:
        """Read a line; each is waited for before the next one is asked for, so none hides in a buffer."""
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], timeout_s)[0]:
            raise LoadError(self._complaint(f"it said nothing for {timeout_s:.0f} s"))
        if not (line := stdout.readline()):
            raise LoadError(self._complaint("it ended"))
        return line.strip()

    def _complaint(self, what: str) -> str:
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        return "\n".join([f"the load generator failed: {what}", *self._errors.read().splitlines()[-10:]])
