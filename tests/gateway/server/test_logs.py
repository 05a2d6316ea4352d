"""What the gateway's process says is one JSON object a line, whoever says it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

_SPEAK = """
import asyncio, logging, sys, threading, warnings
from clipsr_gateway._logs import configure_logging, log_event

configure_logging("info")
log_event("odd", {"nan": float("nan"), "inf": [float("inf")], "path": sys, "text": "é猫\\udcff\\nx"})
logging.getLogger("somebody.else").warning("of %s", "two\\nlines")
logging.getLogger("somebody.else").info("not wanted")
warnings.warn("old\\nthing")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()

class Broken:
    def __del__(self):
        raise ValueError("in a finalizer")

Broken()

async def forget():
    asyncio.get_running_loop().create_future().set_exception(KeyError("forgotten"))
    await asyncio.sleep(0)

asyncio.run(forget())
logging.getLogger("somebody.else").error("%d", "no number")
raise RuntimeError("two\\nlines")
"""


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def read_lines(output: bytes) -> list[dict[str, Any]]:
    lines = output.decode("utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse_constant) for line in lines]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_every_line_is_an_object(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-c", _SPEAK.replace("\\\\", "\\")], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 1
    odd, other, warning, thread, finalizer, future, uncaught = read_lines(done.stderr)
    assert (odd["event"], odd["nan"], odd["inf"], odd["text"]) == ("odd", "NaN", ["Infinity"], "é猫\udcff\nx")
    assert (other["event"], other["logger"], other["message"]) == ("log", "somebody.else", "of two\nlines")
    assert (warning["logger"], "old\nthing" in warning["message"]) == ("py.warnings", True)
    assert (thread["event"], thread["exception"].splitlines()[-1]) == (
        "uncaught",
        "ZeroDivisionError: division by zero",
    )
    assert finalizer["message"] == "in a finalizer"
    assert (future["logger"], "KeyError: 'forgotten'" in future["exception"]) == ("asyncio", True)
    assert (uncaught["level"], uncaught["message"]) == ("error", "two\nlines")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--max-calls", "many"], ["--tls-key", "alone.pem"], ["stray"]])
def test_a_wrong_command_line_is_one_line_too(arguments):
    command = [sys.executable, "-c", "import sys; from clipsr_gateway.cli import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    (line,) = read_lines(done.stderr)
    assert line["event"] == "failed"
