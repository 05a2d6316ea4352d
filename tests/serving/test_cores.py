"""Cores by affinity and by the quotas of control groups, in both versions."""

from __future__ import annotations

import os

import pytest

from clipsr_serving.cores import count_cores, share_cores


@pytest.fixture
def count(tmp_path, monkeypatch):
    """Counts on a machine of 16 cores whose groups and quotas the test says."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))

    def count_them(groups: str, **quotas: str) -> int:
        (tmp_path / "cgroup").write_text(groups, encoding="utf-8")
        for name, text in quotas.items():
            file = tmp_path / "fs" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return count_cores(cgroups=tmp_path / "cgroup", mount=tmp_path / "fs")

    return count_them


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 16), ("200000 100000", 2), ("50000 100000", 1), ("3200000 100000", 16)]
)
def test_version_2(count, quota, cores):
    assert count("0::/\n", **{"cpu.max": quota}) == cores


def test_version_2_the_smallest_quota_of_all_groups_above_counts(count):
    quotas = {"pod/cpu.max": "300000 100000", "pod/container/cpu.max": "max 100000", "cpu.max": "max 100000"}
    assert count("0::/pod/container\n", **quotas) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", 16), ("200000\n", 2), ("150000\n", 2), ("10000\n", 1)])
def test_version_1(count, quota, cores):
    files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    assert count("5:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n", **files) == cores


def test_version_1_of_a_group_below_the_mount(count):
    files = {"cpu/docker/abc/cpu.cfs_quota_us": "400000\n", "cpu/docker/abc/cpu.cfs_period_us": "100000\n"}
    assert count("3:cpu:/docker/abc\n", **files) == 4


def test_without_groups_the_affinity_counts(count, tmp_path):
    assert count("") == 16
    assert count_cores(cgroups=tmp_path / "none", mount=tmp_path) == 16
    assert count("garbage\n0::/\n", **{"cpu.max": "nonsense"}) == 16


def test_instances_share_what_there_is():
    assert share_cores(1) == count_cores()
    assert share_cores(10_000) == 1
