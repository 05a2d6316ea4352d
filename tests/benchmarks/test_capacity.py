"""The parts of the capacity measurement that need no service; tests/integration measures a real one."""

from __future__ import annotations

import threading
import time

import pytest
from benchmarks.load.capacity import Load, find_capacity, main, measure, percentile

from clipsr import ClipsrError


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(100, 0.99, 99), (100, 0.5, 50), (101, 0.99, 100), (1, 0.99, 1), (0, 0.5, 0)]
)
def test_percentiles(count, fraction, expected):
    assert percentile(list(range(1, count + 1)), fraction) == expected


def load(callers, rate, p99_ms, failed=0):
    return Load(callers=callers, rate=rate, p50_ms=1, p99_ms=p99_ms, failed=failed)


def test_the_capacity_is_the_highest_rate_that_callers_accept():
    loads = [load(1, 10, 20), load(2, 18, 40), load(4, 19, 90), load(8, 25, 50, failed=1), load(16, 19, 300)]
    assert find_capacity(loads, p99_ms=100) == loads[2]
    assert find_capacity(loads, p99_ms=30) == loads[0]
    assert find_capacity(loads, p99_ms=10) is None


def test_callers_ask_at_once():
    """Nobody is answered before three ask; callers who take turns would wait for ever."""
    asked = threading.Semaphore(0)
    all_three = threading.Event()

    def ask() -> None:
        asked.release()
        assert all_three.wait(60)
        time.sleep(0.02)

    def open_once_all_ask() -> None:
        for _ in range(3):
            assert asked.acquire(timeout=60)
        all_three.set()

    opener = threading.Thread(target=open_once_all_ask)
    opener.start()
    together = measure([ask] * 3, seconds=1.0, warm_up_s=0.1)
    opener.join()
    assert together.callers == 3
    assert together.rate > 0
    assert together.p50_ms >= 20
    assert together.failed == 0


def test_failures_are_counted_and_make_no_rate():
    def fail():
        raise ClipsrError("refused")

    refused = measure([fail], seconds=1.0, warm_up_s=0.1)
    assert (refused.rate, refused.p99_ms) == (0, 0)
    assert refused.failed > 0


@pytest.mark.parametrize(("option", "value"), [("--callers", "0"), ("--callers", "many")])
def test_wrong_options(option, value, repo_root):
    with pytest.raises(SystemExit) as caught:
        main(["--images", str(repo_root / "samples"), option, value])
    assert caught.value.code == 2
