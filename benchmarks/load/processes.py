"""Processor time and memory of a system's processes, all descendants included."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Usage", "measure_usage", "memory_mb", "tree"]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One process.

    Attributes:
        cpu_s: processor seconds, user and system, in the measured time.
        rss_mb: resident memory at the end, in units of 10^6 bytes; pages shared with others count in full.
        pss_mb: the same with shared pages divided among those who share them: the sum over processes is what the
            system occupies. None where /proc may not be read.
    """

    cpu_s: float
    rss_mb: float
    pss_mb: float | None


def tree(pids: Iterable[int]) -> dict[str, psutil.Process]:
    """Return these processes and all their descendants by a name of their own; those that ended are left out."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            root = psutil.Process(pid)
            found |= {process.pid: process for process in (root, *root.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    named: dict[str, psutil.Process] = {}
    for pid in sorted(found):
        try:
            named[f"{_describe(found[pid])} ({pid})"] = found[pid]
        except psutil.NoSuchProcess:
            continue
    return named


def memory_mb(pids: Iterable[int]) -> float:
    """Return the memory that these processes and their descendants occupy together (PSS; RSS where it is unknown)."""
    usages = [_usage(process, 0.0, 0.0) for process in tree(pids).values()]
    return sum(u.rss_mb if u.pss_mb is None else u.pss_mb for u in usages if u is not None)


def measure_usage(pids: Sequence[int], *, begin_s: float, end_s: float) -> dict[str, Usage]:
    """Wait until `end_s` of the monotonic clock; return what each process used since `begin_s`.

    A process that began in between counts from its beginning; one that ended is left out.
    """
    time.sleep(max(0.0, begin_s - time.monotonic()))
    before = {name: _cpu_s(process) for name, process in tree(pids).items()}
    time.sleep(max(0.0, end_s - time.monotonic()))
    # All processor times first: summing up the memory of large processes takes long enough to count as work of theirs.
    after = [(name, process, _cpu_s(process)) for name, process in tree(pids).items()]
    usages = {
        name: _usage(process, before.get(name) or 0.0, after_s)
        for name, process, after_s in after
        if after_s is not None
    }
    return {name: usage for name, usage in usages.items() if usage is not None}


def _cpu_s(process: psutil.Process) -> float | None:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return None
    return times.user + times.system


def _usage(process: psutil.Process, before_s: float, after_s: float) -> Usage | None:
    try:
        rss = process.memory_info().rss
    except psutil.NoSuchProcess:
        return None
    try:
        pss = process.memory_full_info().pss / 1e6
    except (psutil.Error, AttributeError):
        pss = None
    return Usage(cpu_s=after_s - before_s, rss_mb=rss / 1e6, pss_mb=pss)


def _describe(process: psutil.Process) -> str:
    """Return the command without folders; for Triton's stubs the instance they run, for Python the module or script."""
    words = process.cmdline()
    if not words:
        return process.name()
    program = Path(words[0]).name
    if "stub" in program:
        return next((word for word in words if "_0_" in word and "/" not in word), program)
    named = [Path(word).name for word in words[1:] if not word.startswith("-")]
    return f"{program} {named[0]}" if program.startswith("python") and named else program
