"""The parts of the capacity measurement that need no service; tests/integration measures a real one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from benchmarks.load.capacity import find_capacity, main
from benchmarks.load.summary import Summary


def load(rate, p99_ms, failed=0):
    errors = {"UNAVAILABLE": failed} if failed else {}
    latency_ms = {"p50": 1.0, "p99": p99_ms} if p99_ms else {}
    return Summary(throughput=rate, latency_ms=latency_ms, n_calls=100, errors=errors, lag_ms=0.0)


def test_the_capacity_is_the_highest_rate_that_callers_accept():
    loads = {1: load(10, 20), 2: load(18, 40), 4: load(19, 90), 8: load(25, 50, failed=1), 16: load(19, 300)}
    loads[32] = load(0, None)
    assert find_capacity(loads, p99_ms=100) == 4
    assert find_capacity(loads, p99_ms=30) == 1
    assert find_capacity(loads, p99_ms=10) is None


@pytest.mark.parametrize(
    "wrong", [["--callers", "0"], ["--callers", "many"], ["--images", "docs/clients"], ["--images", "nowhere"]]
)
def test_wrong_options(wrong, repo_root, monkeypatch):
    monkeypatch.chdir(repo_root)
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2


def test_it_runs_where_only_the_service_is_installed(repo_root):
    """`make bench-capacity` takes the runtime environment, which has no tools of development."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(['aiohttp', 'psutil', 'pyarrow', 'numpy', 'torch']))"
    program = f"{blocked}; import benchmarks.load.worker; from benchmarks.load.capacity import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", program], cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--p99-ms" in done.stdout
