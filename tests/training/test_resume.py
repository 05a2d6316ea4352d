"""A training run that is killed and resumed ends where an uninterrupted one ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

N_STEPS = 1000
DEADLINE_S = 600.0


def start(images: Path, output: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the command as a user does, in a process group of its own, so that its workers can be killed with it."""
    command = [sys.executable, "-W", "ignore", "-m", "clipsr_training._cli.train", "liif", "--recipe", "fast"]
    command += ["--data", str(images), "--output", str(output), "--steps", str(N_STEPS), "--batch-size", "1"]
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen([*command, *options], stdout=log, stderr=log, start_new_session=True)


def finish(process: subprocess.Popen[bytes], output: Path) -> None:
    try:
        code = process.wait(DEADLINE_S)
    finally:
        kill(process)
    assert code == 0, (output.parent / f"{output.name}.log").read_text()


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
@pytest.mark.timeout(3 * DEADLINE_S)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(image_folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finish(start(image_folder, whole), whole)

    process = start(image_folder, parts)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not (parts / "last.ckpt").is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)  # into the next segment, whose steps are then lost
    finally:
        was_running = process.poll() is None
        kill(process)
    assert was_running
    assert not (parts / "liif.safetensors").exists()
    done = torch.load(parts / "last.ckpt", weights_only=False)["global_step"]
    assert 0 < done < N_STEPS

    finish(start(image_folder, parts, "--resume"), parts)
    a, b = (load_file(folder / "liif.safetensors") for folder in (whole, parts))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
