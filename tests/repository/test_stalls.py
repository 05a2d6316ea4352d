"""`make test-stalls` stalls what it runs, and nothing stays stopped."""

from __future__ import annotations

import sys

from tests.stalls import run_with_stalls

# Looks at the clock until it was away for half a second.
CHILD = """
import sys, time
seen_s = began_s = time.monotonic()
while time.monotonic() - began_s < 60:
    now_s = time.monotonic()
    if now_s - seen_s > 0.5:
        sys.exit(7)
    seen_s = now_s
    time.sleep(0.001)
"""
PARENT = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {CHILD!r}]).returncode)"


def test_descendants_stand_still_for_a_while_and_go_on():
    assert run_with_stalls([sys.executable, "-c", PARENT], seed=1) == 7
