"""A worker that crashes says where, also after Lightning has uninstalled what would say it."""

from __future__ import annotations

import subprocess
import sys

import pytest

_TESTS = """
import faulthandler, signal, sys

def test_that_trains():
    sys.modules["lightning"] = sys  # its import takes seconds
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE):
        signal.signal(number, signal.SIG_DFL)  # as it does after `fit`

def test_that_crashes():
    faulthandler._sigsegv()
"""


@pytest.mark.parametrize(("plugin", "is_said"), [("tests.crashes", True), ("no:tests.crashes", False)])
def test_a_crash_after_a_training_run_is_said(tmp_path, repo_root, plugin, is_said):
    (tmp_path / "test_crash.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-p", "no:cacheprovider", str(tmp_path)]
    ran = subprocess.run([*command, f"--rootdir={tmp_path}"], cwd=repo_root, capture_output=True, text=True)
    assert ran.returncode < 0, ran.stdout
    assert ("in test_that_crashes" in ran.stderr) == is_said
