"""Services behind a load balancer: what is judged, and (slowly) the files of deploy/ in front of real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.reliability._balanced import judge_fault, judge_rolling
from benchmarks.reliability._instances import PROXIES, find_missing

from tests.benchmarks.test_reliability import holds, outcome


@pytest.mark.parametrize(
    ("rolling", "expected"),
    [
        ([outcome(latency_s=0.29)], [True, True]),
        ([outcome(latency_s=0.31)], [True, False]),
        ([outcome(), outcome("UNAVAILABLE")], [False, True]),
        ([], [False, False]),
    ],
    ids=["good", "slow", "lost", "no call"],
)
def test_rolling_restart(rolling, expected):
    assert holds(judge_rolling([outcome()], rolling, restarts=3)) == expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([outcome(), outcome(latency_s=19)], True),
        ([outcome(), outcome("DeadlineError", latency_s=20)], False),
        ([outcome(latency_s=22)], False),
        ([], False),
    ],
    ids=["slow", "lost", "outlives its deadline", "no call"],
)
def test_fault(outcomes, expected):
    assert judge_fault("stopped", outcomes, timeout_s=20).holds is expected


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("proxy", sorted(PROXIES))
def test_no_call_is_lost_while_instances_behind_a_real_load_balancer_are_restarted_and_killed(
    proxy, repo_root, serve_bin, tmp_path
):
    if missing := find_missing(proxy):
        pytest.skip(missing)
    command = [sys.executable, "-m", "benchmarks.reliability", "balanced", "--proxy", proxy, "--seconds", "10"]
    command += ["--fault", "killed", "--gateway-option=--shutdown-delay=3", "--json", str(tmp_path / "result.json")]
    environment = os.environ | {"PATH": f"{serve_bin}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, cwd=repo_root, env=environment, check=False, timeout=840)
    verdicts = json.loads(Path(tmp_path / "result.json").read_text(encoding="utf-8"))["verdicts"]
    lost, _, killed = verdicts  # latency counts on what else the machine does
    assert lost["holds"], lost
    assert killed["holds"], killed
