"""`clipsr-client` as a process: what only pipes, terminals and signals can show."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from tests.client.terminal import run_in_terminal

COMMAND = [sys.executable, "-c", "import sys; from clipsr.cli import main; sys.exit(main())"]
WAIT_S = 60


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with twenty images."""
    for index in range(20):
        (tmp_path / f"{index:02}.png").write_bytes(b"%d" % index)
    return tmp_path


@pytest.fixture
def gate(fake_service: Any) -> threading.Event:
    """Holds every answer but the first back until it is set."""
    gate = threading.Event()
    fake_service.on_stream = lambda answered, context: gate.wait(WAIT_S) if answered else None
    return gate


def classify(photos: Path, url: str, *arguments: str) -> list[str]:
    return [*COMMAND, "classify", str(photos), "--labels", "cat,dog", "--url", url, *arguments]


def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_until(is_true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


@pytest.mark.parametrize("output_format", ["json", "table"])
def test_outcomes_come_as_soon_as_their_turn_has_come(photos, fake_service, gate, output_format) -> None:
    process = start(classify(photos, fake_service.url, "--format", output_format, "--top-k", "1"))
    assert process.stdout is not None
    try:
        early = process.stdout.readline() + ("" if output_format == "json" else process.stdout.readline())
        assert "00.png" in early
        assert not gate.is_set()  # the second answer is still held back
    finally:
        gate.set()
        late, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert errors == ""
    names = re.findall(r"(\d\d)\.png", early + late)
    assert names == [f"{index:02}" for index in range(20)]


def test_a_reader_that_leaves_is_no_error(photos, fake_service, gate) -> None:
    process = start(classify(photos, fake_service.url, "--batch-size", "1", "--format", "json"))
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    gate.set()
    assert process.wait(WAIT_S) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
    assert len(fake_service.streamed[0]) < 20  # the rest was not even sent


def test_head_ends_the_pipe_quietly(photos, fake_service) -> None:
    command = shlex.join(classify(photos, fake_service.url, "--batch-size", "1", "--format", "json"))
    done = subprocess.run(f"{command} | head -1", shell=True, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_an_interrupt_ends_it_quietly(photos, fake_service, gate) -> None:
    process = start(classify(photos, fake_service.url, "--batch-size", "1", "--format", "json"))
    try:
        wait_until(lambda: bool(fake_service.streamed) and len(fake_service.streamed[0]) == 2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=WAIT_S)
    finally:
        gate.set()
    assert process.returncode == 130
    assert output.count("\n") == 1
    assert errors == ""


def test_reads_an_image_from_a_pipe(fake_service) -> None:
    command = [*COMMAND, "classify", "-", "--labels", "cat,dog", "--format", "csv", "--url", fake_service.url]
    done = subprocess.run(command, input=b"\x89PNG\xff", capture_output=True, timeout=WAIT_S)
    assert done.returncode == 0
    assert done.stdout.decode().splitlines()[1].startswith("-,OK,,,cat,")
    assert fake_service.streamed[0][0][1] == b"\x89PNG\xff"


def test_programs_get_utf8_in_any_locale(photos, fake_service) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command = classify(photos / "00.png", fake_service.url, "--format", "json", "--labels", "猫")
    done = subprocess.run(command, capture_output=True, timeout=WAIT_S, env=environment)
    assert done.returncode == 0
    assert "猫" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("width", [60, 120])
def test_a_terminal_gets_a_table_that_fits(photos, fake_service, width) -> None:
    long_path = photos / ("x" * 100 + "-the-end.png")
    long_path.write_bytes(b"x")
    fake_service.fail_image(b"3", message="A sentence that is too long for one line of a terminal. " * 4)
    command = classify(photos, fake_service.url, "--labels", "猫,🐶 [red]")
    done = run_in_terminal(command, timeout_s=WAIT_S, environment={"COLUMNS": str(width)})
    assert done.code == 1
    assert "\x1b[" in done.shown  # colours
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.shown).splitlines()
    assert all(cell_len(line) <= width for line in lines)
    assert any("…" in line and "-the-end.png" in line for line in lines)
    assert any("cat" in line for line in lines)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["health"],
        ["info", "--format", "json"],
        ["classify", "PHOTOS", "--labels", "cat,dog"],
        ["classify", "PHOTOS", "--labels", "cat,dog", "--format", "json"],
        ["library", "list", "--csv"],
    ],
)
@pytest.mark.parametrize("stdout", ["> /dev/full", ">&-"])
def test_standard_output_that_cannot_be_written_is_one_sentence(photos, fake_service, arguments, stdout) -> None:
    command = shlex.join([*COMMAND, *(str(photos) if each == "PHOTOS" else each for each in arguments)])
    environment = {**os.environ, "CLIPSR_URL": fake_service.url}
    done = subprocess.run(
        f"{command} {stdout}", shell=True, capture_output=True, text=True, timeout=WAIT_S, env=environment
    )
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("clipsr-client: 'standard output' could not be written: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("stderr", ["2> /dev/full", "2>&-"])
def test_errors_that_cannot_be_written_leave_the_exit_code(stderr) -> None:
    command = shlex.join([*COMMAND, "health", "--url", "127.0.0.1:1", "--timeout", "5"])
    assert subprocess.run(f"{command} {stderr}", shell=True, timeout=WAIT_S, check=False).returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["classify", "PHOTOS", "--labels", "cat", "--output", f"{'x' * 300}.csv"],
        ["library", "export", "x" * 300],
        ["library", "list", "default", "--html", f"{'x' * 300}.html"],
        ["library", "add", "PHOTOS", "--results", f"{'x' * 300}.jsonl", "--create"],
    ],
)
def test_a_name_too_long_is_one_sentence(photos, fake_service, arguments) -> None:
    environment = {**os.environ, "CLIPSR_URL": fake_service.url}
    subprocess.run([*COMMAND, "library", "create"], capture_output=True, timeout=WAIT_S, env=environment, check=True)
    command = [*COMMAND, *(str(photos) if each == "PHOTOS" else each for each in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=environment)
    assert done.returncode == 5, done.stderr
    assert "its name is too long" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["-", "--labels", "cat"], ["PHOTOS", "--labels-file", "-"]])
def test_standard_input_that_is_closed_is_empty(photos, fake_service, arguments) -> None:
    fake_service.fail_image(b"", reason="IMAGE_EMPTY")
    command = shlex.join([*COMMAND, "classify", *(str(photos) if each == "PHOTOS" else each for each in arguments)])
    environment = {**os.environ, "CLIPSR_URL": fake_service.url}
    done = subprocess.run(f"{command} <&-", shell=True, capture_output=True, text=True, timeout=WAIT_S, env=environment)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "holds no label" in done.stderr or "INVALID_ARGUMENT" in done.stdout
