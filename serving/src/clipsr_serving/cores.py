"""How many cores this process may really use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["count_cores", "share_cores"]

_CGROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def count_cores(*, cgroups: Path = _CGROUPS, mount: Path = _MOUNT) -> int:
    """Count the cores of this process: its affinity, and the quotas of its control groups (`docker run --cpus`).

    A quota of a group holds for all groups below, so the smallest one counts; 1.5 cores are two threads.

    Args:
        cgroups: which groups this process is in.
        mount: where they are mounted, version 1 or 2.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cpu.max; cgroup-v1 and scheduler/sched-bwc.rst,
        cpu.cfs_quota_us; cgroups(7), /proc/pid/cgroup.
    """
    quotas = [max(1, round(quota)) for quota in _read_quotas(cgroups, mount)]
    return min([len(os.sched_getaffinity(0)), *quotas])


def share_cores(instance_count: int) -> int:
    """Threads for one of several instances of a model, at least 1."""
    return max(1, count_cores() // instance_count)


def _read_quotas(cgroups: Path, mount: Path) -> Iterator[float]:
    for folder in _list_groups(cgroups, mount):
        for numbers in (_read(folder / "cpu.max"), _read(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")):
            try:
                quota, period = map(int, numbers)
                if quota > 0 and period > 0:  # version 1 says -1 for none
                    yield quota / period
            except ValueError:  # no such file here, or "max"
                continue


def _list_groups(cgroups: Path, mount: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups and of all above; a container may see its own group as the root."""
    for line in "\n".join(_read(cgroups, split=False)).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            roots = [mount, mount / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mount / "cpu", mount / controllers]
        else:
            continue
        group = Path(path.lstrip("/"))
        for root in roots:
            yield from (root / part for part in (group, *group.parents))


def _read(*files: Path, split: bool = True) -> list[str]:
    try:
        texts = [file.read_text(encoding="utf-8") for file in files]
    except OSError:
        return []
    return [word for text in texts for word in text.split()] if split else texts
