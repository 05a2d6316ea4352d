"""Restoration against the outputs of the original code (provenance: README of the golden folder)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from clipsr_training.restoration import Restorer, Schedule, fold_contexts, load_restorer, plan_steps
from clipsr_training.restoration._sampling import (
    Step,
    clean_from_noise,
    diffuse,
    euler_step,
    posterior_step,
    sample,
)
from tests.tolerances import RESTORED, TABLES, UNET

SCHEDULE = Schedule()


@pytest.fixture(scope="module")
def folder(golden_dir) -> Path:
    return golden_dir / "daclip"


@pytest.fixture(scope="module")
def restorer(folder) -> Restorer:
    return load_restorer(folder / "unet.pth")


@pytest.mark.parametrize(
    ("prefix", "schedule"), [("", SCHEDULE), ("alt_", Schedule(max_sigma=30, n_times=50, eps=0.01))]
)
def test_tables(folder, prefix, schedule):
    arrays = np.load(folder / "sde.npz")
    times = np.arange(schedule.n_times + 1)
    ours = {
        "theta": schedule.theta,
        "theta_cumsum": schedule.theta_cumsum,
        "dt": schedule.dt,
        "alpha": schedule.alpha(times),
        "sigma_bar": schedule.sigma_bar(times),
        "sigma": schedule.noise_level * np.sqrt(2 * schedule.theta),
    }
    for name, values in ours.items():
        assert np.abs(values - arrays[f"{prefix}{name}_f64"]).max() <= TABLES, name


def test_posterior_coefficients(folder):
    arrays = np.load(folder / "sde.npz")
    for time in range(1, 101):
        step = posterior_step(SCHEDULE, time, time - 1)
        for name, value in (("coef_x", step.state), ("coef_x0", step.clean), ("std", step.noise)):
            assert value == pytest.approx(arrays[f"posterior_{name}_f64"][time], abs=1e-10), (name, time)


def test_forward_states(folder):
    arrays = np.load(folder / "sde.npz")
    lq, clean = (arrays[name].astype(np.float64) / 255 for name in ("lq", "x0"))
    for time, noise, expected in zip(
        np.ravel(arrays["forward_t"]), arrays["forward_noise"], arrays["forward_state_f32"], strict=True
    ):
        found = diffuse(SCHEDULE, clean, lq, noise.astype(np.float64), float(time))
        assert np.abs(found - expected).max() <= RESTORED


@pytest.mark.parametrize(("kind", "make"), [("euler", euler_step), ("posterior", posterior_step)])
def test_single_steps(folder, kind, make: Callable[[Schedule, float, float], Step]):
    arrays = np.load(folder / "sde.npz")
    lq = arrays["lq"].astype(np.float64) / 255
    for row, time in enumerate(np.ravel(arrays["step_t"]).tolist()):
        state, seen, noise = (arrays[f"step_{name}"][row].astype(np.float64) for name in ("x", "eps", "z"))
        clean = clean_from_noise(SCHEDULE, state, lq, seen, time)
        step = make(SCHEDULE, time, time - 1)
        found = step.state * state + step.clean * clean + step.lq * lq + step.noise * noise
        assert np.abs(found - arrays[f"step_{kind}_step_f64"][row]).max() <= 1e-9, time
        assert np.abs(found - arrays[f"step_{kind}_step_f32"][row]).max() <= RESTORED, time


@torch.inference_mode()
@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.parametrize("case", range(5))
def test_network(folder, restorer, case, is_folded):
    arrays = np.load(folder / "unet.npz")
    network = fold_contexts(restorer.network) if is_folded else restorer.network

    def read(name: str) -> Tensor:
        values = torch.from_numpy(arrays[f"{name}_{case}"].astype(np.float32))
        return values[None] if values.ndim in (1, 3) else values

    lq, state = read("lq") / 255, read("state")
    contexts = read("image_context"), read("degradation_context")
    times = torch.from_numpy(np.atleast_1d(arrays[f"t_{case}"]).astype(np.float32))
    expected = arrays[f"out_{case}"].reshape(-1, *lq.shape[1:])
    if len(lq) == len(times):
        found = network(state, lq, times, *contexts)
    else:
        found = torch.cat([network(state, lq, time[None], *contexts) for time in times])
    assert np.abs(found.numpy() - expected).max() <= UNET


@torch.inference_mode()
@pytest.mark.parametrize("change", ["exchanged", "normalized", "time", "epsilon"])
def test_common_mistakes_are_noticed(folder, restorer, change, monkeypatch):
    """The comparison can fail: each of these leaves the tolerance."""
    arrays = np.load(folder / "unet.npz")
    lq, state, content, degradation = (
        torch.from_numpy(arrays[f"{name}_4"].astype(np.float32)).reshape(-1, *shape)
        for name, shape in (
            ("lq", (3, 9, 13)),
            ("state", (3, 9, 13)),
            ("image_context", (12,)),
            ("degradation_context", (12,)),
        )
    )
    time = 61.0 if change == "time" else 62.0
    if change == "exchanged":
        content, degradation = degradation, content
    if change == "normalized":
        content, degradation = (torch.nn.functional.normalize(c) for c in (content, degradation))
    if change == "epsilon":
        monkeypatch.setattr("clipsr_training.restoration._layers._CHANNEL_EPS", 1e-3)
    found = restorer.network(state, lq / 255, torch.tensor([time]), content, degradation)
    assert np.abs(found.numpy() - arrays["out_4"].reshape(found.shape)).max() > 10 * UNET


@pytest.fixture(scope="module")
def run(folder, restorer) -> Callable[[tuple[Step, ...], int], np.ndarray]:
    """Runs a plan on the stored picture, contexts and noise."""
    arrays = np.load(folder / "sampling.npz")
    lq = torch.from_numpy(arrays["lq"].astype(np.float32) / 255)[None]
    contexts = tuple(
        torch.from_numpy(arrays[name].astype(np.float32)).reshape(1, -1)
        for name in ("image_context", "degradation_context")
    )
    noise = torch.from_numpy(arrays["noise"].astype(np.float32))
    state = torch.from_numpy(arrays["x_T"].astype(np.float32)).reshape(lq.shape)
    assert np.allclose(state, lq + SCHEDULE.noise_level * arrays["noise_T"].astype(np.float32).reshape(lq.shape))

    @torch.inference_mode()
    def run_plan(steps: tuple[Step, ...]) -> np.ndarray:
        found = sample(
            lambda x, time: restorer.predict(x, lq, time, contexts),
            lq,
            state,
            steps,
            lambda i: noise[i].reshape(lq.shape),
        )
        return found[0].numpy()

    return run_plan


@pytest.mark.parametrize("sampler", ["posterior", "euler"])
def test_complete_runs(folder, run, sampler):
    found = run(plan_steps(SCHEDULE, sampler, 100))
    assert np.abs(found - np.load(folder / "sampling.npz")[f"{sampler}_states"][-1]).max() <= RESTORED


SOLVERS = ["ode-1", "ode-2", "posterior"]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_steps", [5, 10, 20])
def test_few_steps(folder, run, n_steps, solver):
    """MaRS's SDE of first order is the posterior step of that length."""
    arrays, row = np.load(folder / "mars.npz"), SOLVERS.index(solver)
    steps = plan_steps(SCHEDULE, solver, n_steps)
    ours = np.array([[s.state, s.clean, s.previous, s.lq, s.noise] for s in steps])
    assert np.abs(ours - arrays[f"exact_n{n_steps}_coef_f64"][row]).max() <= 1e-11
    assert np.abs(run(steps) - arrays[f"exact_n{n_steps}_x"][row]).max() <= RESTORED
