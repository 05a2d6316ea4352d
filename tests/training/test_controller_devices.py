"""Training a controller on two devices is training on one with a batch twice as large."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from clipsr_training.controller._recipe import RECIPES
from tests.conftest import REPO_ROOT
from tests.training import controller_devices_run

TOLERANCE = 1e-5  # sums in another order, in fp32; of gradients a part of the largest, where that is above 1
TIMEOUT_S = 240  # a dozen seconds where nothing else runs


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_devices_have_the_losses_and_gradients_of_one(recipe, tmp_path):
    # Where there are accelerators, too, these are processes of the CPU; they talk by gloo, on this machine only.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["PYTHONPATH"] = str(REPO_ROOT)  # for the other modules of the tests
    script = [sys.executable, "-W", "ignore", controller_devices_run.__file__, recipe]
    processes = [
        subprocess.Popen(
            [*script, str(n), str(8 // n), str(tmp_path / str(n))],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for n in (1, 2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    one, two = ([torch.load(path) for path in sorted((tmp_path / n).glob("step-*.pt"))] for n in ("1", "2"))
    assert len(one) == len(two) == 3
    for alone, together in zip(one, two, strict=True):
        assert abs(float(alone["loss"] - together["loss"])) < TOLERANCE
    one, two = one[0]["gradients"], two[0]["gradients"]
    assert one.keys() == two.keys()
    assert {"controller.logit_scale", "controller.tower.proj", "controller.connections.2.weight"} <= one.keys()
    for name, gradient in one.items():
        largest = float(gradient.abs().max())
        assert (gradient - two[name]).abs().max() < TOLERANCE * max(1, largest), name
