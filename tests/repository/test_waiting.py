"""`wait_until` waits for a condition, and no longer."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from tests.waiting import wait_until

TESTS = Path(__file__).resolve().parents[1]
# Folders whose tests wait by conditions alone.
FOLDERS = ("benchmarks", "contract", "integration", "repository")


def test_it_returns_what_the_condition_found():
    answers = iter([0, None, "", "found", "too much"])
    assert wait_until(lambda: next(answers)) == "found"
    assert next(answers) == "too much"


def test_it_says_what_did_not_happen():
    numbers = itertools.count()
    with pytest.raises(TimeoutError, match=r"^the number \d+ did not happen within 0.05 s$"):
        wait_until(lambda: next(numbers) < 0, 0.05, what=lambda: f"the number {next(numbers)}")


def test_an_error_of_the_condition_ends_the_waiting():
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0)


def sleeps(source: str) -> list[int]:
    """Lines of a module that call `time.sleep`."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep")
    ]


def test_no_test_sleeps_for_a_fixed_time():
    found = {
        path.relative_to(TESTS).as_posix(): lines
        for folder in FOLDERS
        for path in (TESTS / folder).rglob("*.py")
        if (lines := sleeps(path.read_text(encoding="utf-8")))
    }
    assert not found


def test_a_sleep_is_found():
    assert sleeps("import time\nfrom time import sleep\n\ntime.sleep(1)\nsleep(0.1)\nasyncio.sleep(0)\n") == [4, 5]
