"""How many cores this process may really use."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def count_cores(cpu_max: Path = _CGROUP_CPU_MAX) -> int:
    """Count the cores of this process: its affinity, and in a container its quota (`docker run --cpus`).

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2 here, or the quota is "max"
        return cores


def share_cores(instance_count: int) -> int:
    """Threads for one of several instances of a model, at least 1."""
    return max(1, count_cores() // instance_count)
