"""Tests on a machine that stalls: `make test-stalls`.

Stops a process of the run, chosen at random, for up to a second, and lets it go on, again and again. A test that counts
on a moment then fails here, and not once in a hundred runs elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import psutil

_PAUSE_S = 0.1
_SHORT_S, _LONG_S = 0.1, 1.0
# Chromium's helpers watch each other, and do not get over it; what draws the page does.
_LEFT_ALONE = ("--type=gpu-process", "--type=utility", "--type=zygote", "crashpad")


def run_with_stalls(command: Sequence[str], *, seed: int) -> int:
    """Run a command and stall its descendants; return its exit code.

    Args:
        command: starts the processes.
        seed: of the draw; the moments differ all the same, as the processes do.
    """
    draw = random.Random(seed)
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            time.sleep(draw.uniform(0, _PAUSE_S))
            with contextlib.suppress(psutil.Error):
                running = list(_running(psutil.Process(process.pid)))
                if running:
                    _stall(draw.choice(running), draw.uniform(0, draw.choice([_SHORT_S, _LONG_S])))
    return process.returncode


def _running(root: psutil.Process) -> Iterator[psutil.Process]:
    """Give the descendants that nobody else has stopped."""
    for process in root.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            is_left_alone = any(word in part for part in process.cmdline() for word in _LEFT_ALONE)
            if not is_left_alone and process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                yield process


def _stall(process: psutil.Process, seconds: float) -> None:
    process.suspend()
    try:
        time.sleep(seconds)
    finally:
        process.resume()


def main() -> int:
    """Run pytest with the arguments that follow."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="of the draw (default: another one)")
    options, pytest = parser.parse_known_args()
    sys.stderr.write(f"stalls: seed {options.seed}\n")
    return run_with_stalls([sys.executable, "-m", "pytest", *pytest], seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
