"""The reliability harness against a real service, at a small scale; docs/reliability.md has the full one."""

from __future__ import annotations

import pytest
from benchmarks.load.plan import Target
from benchmarks.reliability._fuzz import fuzz_images, fuzz_requests
from benchmarks.reliability._service import Service as Processes
from benchmarks.reliability._verdict import documented_reasons


@pytest.mark.parametrize(("fuzz", "count"), [(fuzz_images, 192), (fuzz_requests, 150)])
def test_bytes_that_nobody_sends_on_purpose(service, repo_root, fuzz, count):
    processes = Processes(state_dir=service.state_dir, command=service.bin / "clipsr-serve")
    before = processes.process_tree()
    assert {"serve", "triton", "gateway"} < set(before)
    documented = documented_reasons(repo_root / "docs" / "errors.md")
    verdicts = fuzz(Target(kind="grpc", url=service.url), count=count, documented=documented)
    assert [verdict for verdict in verdicts if not verdict.holds] == []
    assert processes.process_tree() == before
    assert set(processes.resident_bytes()) == set(before)
