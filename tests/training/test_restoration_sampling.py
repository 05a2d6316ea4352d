"""The SDE and its samplers: their mathematics, without any reference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from clipsr_training.restoration import SAMPLERS, Schedule, plan_steps
from clipsr_training.restoration._sampling import (
    clean_from_noise,
    diffuse,
    euler_step,
    ode_step,
    posterior_step,
    sample,
)

SCHEDULE = Schedule()


def pictures(shape: tuple[int, ...] = (3, 8, 8)) -> tuple[np.ndarray, np.ndarray]:
    """A clean picture and a damaged one."""
    rng = np.random.default_rng(0)
    return rng.random(shape), rng.random(shape)


def test_the_ends_are_the_clean_picture_and_the_damaged_one_under_noise():
    assert SCHEDULE.alpha(0) == 1
    assert SCHEDULE.sigma_bar(0) == 0
    assert SCHEDULE.alpha(100) == pytest.approx(0.005, rel=1e-12)
    assert SCHEDULE.sigma_bar(100) == pytest.approx(50 / 255, rel=2e-5)
    times = np.linspace(0, 100, 301)
    assert (np.diff(SCHEDULE.alpha(times)) < 0).all()
    assert (np.diff(SCHEDULE.sigma_bar(times)) > 0).all()


@pytest.mark.parametrize("wrong", [{"n_times": 0}, {"max_sigma": 0}, {"max_sigma": math.inf}, {"eps": 0}, {"eps": 1}])
def test_schedules_that_lead_nowhere_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        Schedule(**wrong)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("n_steps", [1, 2, 3, 5, 10, 37, 100])
def test_who_knows_the_clean_picture_returns_it(sampler, n_steps):
    clean, lq = pictures()
    rng = np.random.default_rng(1)
    noise = iter(rng.standard_normal((n_steps + 1, *lq.shape)))
    state = lq + SCHEDULE.noise_level * next(noise)
    steps = plan_steps(SCHEDULE, sampler, n_steps)
    assert len(steps) == n_steps
    assert [step.time for step in steps] == pytest.approx(np.linspace(100, 0, n_steps + 1)[:-1])
    found = sample(lambda _, __: clean, lq, state, steps, lambda _: next(noise))
    if sampler == "euler":  # the last step still adds noise, and few steps are coarse
        assert n_steps < 100 or np.abs(found - clean).max() < 0.1
    else:
        assert np.array_equal(found, clean)


@pytest.mark.parametrize(("start", "between", "end"), [(100, 60, 20), (50, 49, 48), (10, 5.5, 0), (100, 1, 0.5)])
def test_two_posterior_steps_are_one_long_one_in_distribution(start, between, end):
    """Mean and deviation of x_end given x_start and x0, as linear maps."""
    first, second = posterior_step(SCHEDULE, start, between), posterior_step(SCHEDULE, between, end)
    long = posterior_step(SCHEDULE, start, end)
    assert second.state * first.state == pytest.approx(long.state, abs=1e-12)
    assert second.state * first.clean + second.clean == pytest.approx(long.clean, abs=1e-12)
    assert second.state * first.lq + second.lq == pytest.approx(long.lq, abs=1e-12)
    assert math.hypot(second.state * first.noise, second.noise) == pytest.approx(long.noise, abs=1e-12)


@pytest.mark.parametrize(("start", "end"), [(100, 99), (100, 20), (63.5, 7.25), (2, 1), (1, 0)])
def test_a_posterior_step_keeps_the_forward_process(start, end):
    """Of x_start from the forward process, the step makes x_end of the forward process: same mean, same deviation."""
    step = posterior_step(SCHEDULE, start, end)
    alpha, alpha_end = SCHEDULE.alpha(start), SCHEDULE.alpha(end)
    # x_start = α x0 + (1 - α) μ + σ̄ ε.
    assert step.state * alpha + step.clean == pytest.approx(alpha_end, abs=1e-12)
    assert step.state * (1 - alpha) + step.lq == pytest.approx(1 - alpha_end, abs=1e-12)
    deviation = math.hypot(step.state * SCHEDULE.sigma_bar(start), step.noise)
    assert deviation == pytest.approx(SCHEDULE.sigma_bar(end), abs=1e-12)


@pytest.mark.parametrize("before", [None, 100])
def test_the_ode_carries_a_state_along_its_own_path(before):
    """With x̂0 exact, x_t = μ + α(x0 − μ) + σ̄ε goes to the state of the same ε at the end, whatever the order."""
    clean, lq = pictures()
    noise = np.random.default_rng(2).standard_normal(lq.shape)
    step = ode_step(SCHEDULE, 70, 30, before)
    state = diffuse(SCHEDULE, clean, lq, noise, 70)
    found = step.state * state + (step.clean + step.previous) * clean + step.lq * lq
    assert np.allclose(found, diffuse(SCHEDULE, clean, lq, noise, 30), atol=1e-12)


def test_the_second_order_is_exact_where_the_prediction_is_linear_in_the_logarithm_of_the_ratio():
    clean, lq = pictures()
    slope = np.random.default_rng(3).random(lq.shape)

    def prediction(time: float) -> np.ndarray:
        return clean + slope * np.log(SCHEDULE.alpha(time) / SCHEDULE.sigma_bar(time))

    state, previous = diffuse(SCHEDULE, clean, lq, np.ones_like(lq), 80), prediction(90)
    fine = state
    times = np.linspace(80, 40, 4001)
    for start, end in itertools.pairwise(times):
        step = ode_step(SCHEDULE, start, end, None)
        middle = (start + end) / 2
        fine = step.state * fine + step.clean * prediction(middle) + step.lq * lq
    errors = []
    for before in (None, 90):
        step = ode_step(SCHEDULE, 80, 40, before)
        found = step.state * state + step.clean * prediction(80) + step.previous * previous + step.lq * lq
        errors.append(np.abs(found - fine).max())
    assert errors[1] < 1e-4 < 1e-2 < errors[0]


def test_the_last_step_but_one_of_few_is_of_first_order():
    few, many = plan_steps(SCHEDULE, "ode-2", 5), plan_steps(SCHEDULE, "ode-2", 10)
    assert [step.previous != 0 for step in few] == [False, True, True, False, False]
    assert [step.previous != 0 for step in many] == [False, *[True] * 8, False]
    assert few[-1].clean == many[-1].clean == 1


def test_single_euler_steps_are_those_of_the_reverse_sde():
    time, rng = 37, np.random.default_rng(4)
    state, lq, noise, seen = rng.standard_normal((4, 3, 4, 4))
    theta, dt = SCHEDULE.theta[time], SCHEDULE.dt
    score = -seen / SCHEDULE.sigma_bar(time)
    sigma = SCHEDULE.noise_level * math.sqrt(2 * theta)
    expected = state - (theta * (lq - state) - sigma**2 * score) * dt - sigma * math.sqrt(dt) * noise
    step = euler_step(SCHEDULE, time, time - 1)
    clean = clean_from_noise(SCHEDULE, state, lq, seen, time)
    found = step.state * state + step.clean * clean + step.lq * lq + step.noise * noise
    assert np.allclose(found, expected, atol=1e-11)


def test_the_noise_in_a_state_is_found_again():
    clean, lq = pictures()
    noise = np.random.default_rng(5).standard_normal(lq.shape)
    state = diffuse(SCHEDULE, clean, lq, noise, 62.5)
    assert np.allclose(clean_from_noise(SCHEDULE, state, lq, noise, 62.5), clean, atol=1e-12)


def test_plans_run_on_tensors_as_on_arrays():
    clean, lq = pictures()
    noise = np.random.default_rng(6).standard_normal((6, *lq.shape))
    steps = plan_steps(SCHEDULE, "posterior", 5)
    arrays = sample(lambda x, _: 0.5 * (x + clean), lq, lq + noise[5], steps, lambda i: noise[i])
    to = torch.from_numpy
    tensors = sample(lambda x, _: 0.5 * (x + to(clean)), to(lq), to(lq + noise[5]), steps, lambda i: to(noise[i]))
    assert np.allclose(tensors.numpy(), arrays, atol=1e-12)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="1 step or more, got 0"):
        plan_steps(SCHEDULE, "ode-2", 0)
