"""Training on two devices is training on one with a batch twice as large."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from clipsr_training._fit import FitOptions, deal_out, fit
from clipsr_training.clip._data import ClassPrompts, ClipBatchDataset
from tests.training import devices_run

TOLERANCE = 1e-5  # sums in another order, in fp32; of gradients a part of the largest, where that is above 1
TIMEOUT_S = 240  # a dozen seconds where nothing else runs


def run_all(*commands: list[str]) -> None:
    """Run commands side by side to their end; whatever happens, none stays behind."""
    # Where there are accelerators, too, these are processes of the CPU; they talk by gloo, on this machine only.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for command in commands
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


def steps(folder: Path) -> list[dict]:
    """What the steps of a run computed."""
    return [torch.load(path) for path in sorted(folder.glob("step-*.pt"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, list[dict]]:
    """What the steps of a run computed, by its number of devices: two real processes, and one, 8 images a step."""
    folder = tmp_path_factory.mktemp("runs")
    run_all(*([devices_run.__file__, str(n), str(8 // n), str(folder / str(n))] for n in (1, 2)))
    return {n: steps(folder / str(n)) for n in (1, 2)}


@pytest.mark.slow
def test_two_machines_have_the_steps_of_two_devices(runs, tmp_path):
    """Two torchruns that find each other over the network, as docs/training.md has them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_all(
        *(
            [
                *("-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"),
                *("--master-addr", "127.0.0.1", "--master-port", str(port)),
                *(devices_run.__file__, "1", "4", str(tmp_path / "run"), "2"),
            ]
            for rank in (0, 1)
        )
    )
    found = steps(tmp_path / "run")
    assert [float(step["loss"]) for step in found] == pytest.approx([float(step["loss"]) for step in runs[2]])
    for name, gradient in runs[2][0]["gradients"].items():
        assert torch.allclose(found[0]["gradients"][name], gradient, atol=TOLERANCE), name


def test_several_machines_need_torchrun(tmp_path):
    options = FitOptions(output=tmp_path, nodes=2)
    with pytest.raises(ValueError, match="2 machines need torchrun on each of them"):
        fit(devices_run.training(batch_size=4, options=options), options, settings={}, max_epochs=1)


def test_draws_are_dealt_out_in_their_order():
    """A step of all devices sees what a step of one would, with a batch as large as theirs together."""
    modules = (SimpleNamespace(trainer=SimpleNamespace(world_size=2, global_rank=device)) for device in range(2))
    first, second = (list(deal_out(cast("Any", module), cast("Any", range(8)))) for module in modules)
    assert (first, second) == ([0, 2, 4, 6], [1, 3, 5, 7])


@pytest.mark.slow
def test_two_devices_have_the_losses_of_one(runs):
    one, two = ([float(step["loss"]) for step in runs[n]] for n in (1, 2))
    assert len(one) == len(two) == 4
    assert np.abs(np.subtract(one, two)).max() < TOLERANCE
    assert min(one) > np.log(4)  # contrasting four images of its own device, an untrained model is at log 4 or so


@pytest.mark.slow
def test_two_devices_have_the_gradients_of_one(runs):
    one, two = (runs[n][0]["gradients"] for n in (1, 2))
    assert one.keys() == two.keys()
    assert {"model.logit_scale", "model.visual.proj", "model.text_projection"} <= one.keys()
    for name, gradient in one.items():
        largest = float(gradient.abs().max())
        assert (gradient - two[name]).abs().max() < TOLERANCE * max(1, largest), name
    assert min(float(one[name].abs().max()) for name in ("model.visual.proj", "model.text_projection")) > 0.01


def test_the_parts_of_a_batch_make_the_batch():
    """Images, changes at random and texts: each device gets its own, together they are those of one device."""
    texts: list[str] = []
    datasets = []
    for device, n_devices in ((0, 1), (0, 3), (1, 3), (2, 3)):
        phrases = ClassPrompts(["a photo of a {}.", "{}"])
        dataset = ClipBatchDataset(
            devices_run.sources(phrases),
            phrases,
            lambda own: texts.append("|".join(own)) or torch.tensor([[hash(text)] for text in own]),
            batch_size=15 // n_devices,
            augmented=True,
            cutout=0.25,
            seed=0,
            epoch=3,
            device=device,
            n_devices=n_devices,
        )
        datasets.append(dataset)
    assert [len(dataset) for dataset in datasets] == [2] * 4
    for whole, *parts in zip(*datasets, strict=True):
        n_texts = whole.is_positive.shape[1]
        assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
        assert len({len(part.tokens) for part in parts}) == 1
        assert torch.equal(torch.cat([part.tokens for part in parts])[:n_texts], whole.tokens)
        assert all(torch.equal(part.is_positive, whole.is_positive) for part in parts)


def test_fewer_images_than_all_devices_take_are_refused(tmp_path):
    module = devices_run.training(batch_size=17, options=FitOptions(output=tmp_path))
    module._trainer = SimpleNamespace(current_epoch=0, global_rank=0, world_size=2)
    with pytest.raises(ValueError, match=r"32 images .* fewer than one batch of all devices takes \(2 of 17\)"):
        module.train_dataloader()
