"""The measurement on which docs/deployment.md bases the number of pods, against a real service."""

from __future__ import annotations

import re

from benchmarks.load.capacity import main


def test_a_capacity_is_found_and_none_where_callers_ask_too_much(service, repo_root, capsys):
    shared = ["--url", service.url, "--images", str(repo_root / "samples"), "--callers", "1,2", "--seconds", "0.5"]
    assert main([*shared, "--p99-ms", "30000"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:3]] == ["1", "2"]
    assert all(line.split()[-1] == "0" for line in printed[1:3])  # no call failed
    assert float(re.fullmatch(r"Capacity: ([\d.]+) images/s with [12] callers, p99 \d+ ms\.", printed[3])[1]) > 0
    assert main([*shared, "--callers", "1", "--p99-ms", "0.001"]) == 1
    assert "No load kept" in capsys.readouterr().err
