"""A stop is heard whenever it comes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# A signal about every hundred microseconds while the main thread only asks: many fall into the asking itself.
_BOMBARD = """
import os, signal, sys, threading, time
from clipsr_serving.launcher._supervisor.stop import StopRequest

stop = StopRequest()
stop.listen()
assert not stop.wait(0.01)

def send():
    for _ in range(1000):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1e-4)

sender = threading.Thread(target=send)
sender.start()
assert stop.wait(10)
while sender.is_alive():
    assert stop.wait(1e-5)
print("heard")
"""


def run(source: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=False)


def test_signals_that_interrupt_the_wait_do_not_block_it():
    completed = run(_BOMBARD)
    assert completed.stdout == "heard\n", completed.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_each_of_the_signals_ends_a_wait_early(number):
    source = f"""
import os, threading, time
from clipsr_serving.launcher._supervisor.stop import StopRequest

stop = StopRequest()
stop.listen()
threading.Timer(0.2, os.kill, (os.getpid(), {int(number)})).start()
began_s = time.monotonic()
assert stop.wait(50) and stop.wait(0)
print(time.monotonic() - began_s < 25)
"""
    completed = run(source)
    assert completed.stdout == "True\n", completed.stderr
