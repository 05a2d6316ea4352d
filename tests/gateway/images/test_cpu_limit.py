"""Decoding in the gateway has a limit in time."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from clipsr_gateway._images import decode as module
from clipsr_gateway._images.cpu_limit import DECODE_CPU_S, limit_cpu


def run(code: str) -> int:
    code = f"import threading, time\nfrom clipsr_gateway._images.cpu_limit import limit_cpu\n{code}"
    return subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode


def test_what_exceeds_it_ends_the_process():
    """Also in native code that holds Python's lock, and in any thread."""
    code = (
        "def work():\n"
        "    with limit_cpu(30): pass\n"
        "    with limit_cpu(0.05): sum(range(10**12))\n"
        "threading.Thread(target=work).start()\n"
    )
    assert run(code) == -signal.SIGPROF


def test_the_work_of_other_threads_does_not_count():
    code = (
        "def spin():\n"
        "    while not over: pass\n"
        "over = []\n"
        "threading.Thread(target=spin).start()\n"
        "with limit_cpu(0.2):\n"
        "    while time.process_time() < 1: time.sleep(0.01)\n"
        "over.append(True)\n"
    )
    assert run(code) == 0


def test_it_ends_with_what_it_limits():
    code = "with limit_cpu(0.05): pass\nwhile time.thread_time() < 0.5: pass\n"
    assert run(code) == 0


def test_decoding_is_inside_of_it(monkeypatch):
    limits = []

    def spy(seconds):
        limits.append(seconds)
        return limit_cpu(seconds)

    monkeypatch.setattr(module, "limit_cpu", spy)
    with pytest.raises(module.ImageRejectedError):
        module.decode(b"no image")
    assert limits == [DECODE_CPU_S]
