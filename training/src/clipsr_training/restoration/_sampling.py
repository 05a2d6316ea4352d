"""From the damaged picture back to the clean one: samplers as plans of linear steps.

The network predicts the clean picture from a state; a step is then a weighted sum of the state, that prediction, the
one before, the damaged picture and fresh noise. A plan is the list of those weights, for numpy and PyTorch alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clipsr_training.restoration._schedule import Schedule

Sampler = Literal["posterior", "euler", "ode-1", "ode-2"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
# Below this many steps the published solver takes its last step but one at order 1.
_FEW_STEPS = 10
Picture = TypeVar("Picture", NDArray[np.floating], Tensor)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: the network is evaluated at `time`, then the state becomes a sum with these weights.

    Attributes:
        time: where the state is, 0 to T.
        state: weight of the state x.
        clean: of x̂0, the prediction.
        previous: of the prediction of the step before; 0 in the first.
        lq: of the damaged picture μ.
        noise: of fresh standard normal noise; 0 in deterministic steps.
    """

    time: float
    state: float = 0.0
    clean: float = 0.0
    previous: float = 0.0
    lq: float = 0.0
    noise: float = 0.0


def plan_steps(schedule: Schedule, sampler: Sampler, n_steps: int) -> tuple[Step, ...]:
    """Return the steps from T to 0, at evenly spaced times.

    Args:
        schedule: of the SDE.
        sampler: `posterior` draws from the distribution of the state at the end of a step, given its beginning and x̂0,
            of whatever length the step is (of first order, SDE in MaRS's words); `euler` follows the reverse SDE, and
            needs a hundred steps; `ode-1` and `ode-2` solve the reverse ODE, exact in its linear part.
        n_steps: at least 1.

    Raises:
        ValueError: there is no step to take.

    Source: Luo et al. 2024 (IR-SDE posterior, DA-CLIP); Li et al. 2025 (MaRS), data prediction, orders 1 and 2; the
    limit of both at t = 0 is x̂0 itself.
    """
    if n_steps < 1:
        raise ValueError(f"sampling takes 1 step or more, got {n_steps}")
    times = np.linspace(schedule.n_times, 0, n_steps + 1)
    pairs = list(zip(times[:-1].tolist(), times[1:].tolist(), strict=True))
    if sampler == "euler":
        return tuple(euler_step(schedule, start, end) for start, end in pairs)
    steps: list[Step] = []
    for i, (start, end) in enumerate(pairs):
        if sampler == "posterior":
            steps.append(posterior_step(schedule, start, end))
            continue
        is_lowered = i == n_steps - 2 and n_steps < _FEW_STEPS
        before = float(times[i - 1]) if sampler == "ode-2" and i > 0 and not is_lowered else None
        steps.append(ode_step(schedule, start, end, before))
    return tuple(steps)


def posterior_step(schedule: Schedule, start: float, end: float) -> Step:
    """Return the step that draws x_end from p(x_end | x_start, x̂0), with end < start any time apart."""
    kept, kept_end = -2 * schedule.reversion(start), -2 * schedule.reversion(end)  # ln α²
    between = float(np.expm1(kept - kept_end))  # α_start² / α_end² - 1
    total, total_end = float(np.expm1(kept)), float(np.expm1(kept_end))
    state = math.exp((kept - kept_end) / 2) * total_end / total
    clean = math.exp(kept_end / 2) * between / total
    noise = schedule.noise_level * math.sqrt(-between * total_end / total)
    return Step(time=start, state=state, clean=clean, lq=1 - state - clean, noise=noise)


def euler_step(schedule: Schedule, start: float, end: float) -> Step:
    """Return the step of Euler and Maruyama along the reverse SDE."""
    drift = float(schedule.reversion(start) - schedule.reversion(end))
    alpha = float(schedule.alpha(start))
    # σ² dt times the score's factor, 1 / σ̄²; λ² cancels.
    pull = 2 * drift / -float(np.expm1(-2 * schedule.reversion(start)))
    return Step(
        time=start,
        state=1 + drift - pull,
        clean=pull * alpha,
        lq=-drift + pull * (1 - alpha),
        noise=-schedule.noise_level * math.sqrt(2 * drift),
    )


def ode_step(schedule: Schedule, start: float, end: float, before: float | None) -> Step:
    """Return the step along the reverse ODE, exact but for how x̂0 changes meanwhile.

    Args:
        schedule: of the SDE.
        start: time of the state.
        end: time of the result.
        before: start of the step before, whose prediction tells the slope of x̂0; None takes x̂0 as constant.
    """
    if end == 0:  # σ̄ is 0 and its logarithm infinite: the limit of every order
        return Step(time=start, clean=1.0)
    alpha, alpha_end = float(schedule.alpha(start)), float(schedule.alpha(end))
    ratio = float(schedule.sigma_bar(end) / schedule.sigma_bar(start))
    h = _log_snr(schedule, end) - _log_snr(schedule, start)
    state, clean = ratio, -alpha_end * math.expm1(-h)
    lq = 1 - ratio + alpha * ratio - alpha_end
    slope = 0.0
    if before is not None:
        h_before = _log_snr(schedule, start) - _log_snr(schedule, before)
        slope = alpha_end * (1 + math.expm1(-h) / h) * h / h_before
    return Step(time=start, state=state, clean=clean + slope, previous=-slope, lq=lq)


def _log_snr(schedule: Schedule, time: float) -> float:
    return float(np.log(schedule.alpha(time)) - np.log(schedule.sigma_bar(time)))


def sample(
    predict: Callable[[Picture, float], Picture],
    lq: Picture,
    state: Picture,
    steps: Sequence[Step],
    noise: Callable[[int], Picture],
) -> Picture:
    """Run a plan.

    Args:
        predict: returns x̂0 for a state and its time.
        lq: the damaged picture μ, any shape.
        state: x_T, of the same shape.
        steps: of `plan_steps`.
        noise: returns standard normal noise of that shape for a step's number; asked only where it counts.

    Returns:
        The picture at the end, not clamped.
    """
    previous = state
    for number, step in enumerate(steps):
        clean = predict(state, step.time)
        state = step.state * state + step.clean * clean + step.lq * lq
        if step.previous:
            state = state + step.previous * previous
        if step.noise:
            state = state + step.noise * noise(number)
        previous = clean
    return state


def diffuse(schedule: Schedule, clean: Picture, lq: Picture, noise: Picture, time: float) -> Picture:
    """Return x_t, the state of a clean picture at a time, given standard normal noise; all of one shape."""
    return lq + float(schedule.alpha(time)) * (clean - lq) + float(schedule.sigma_bar(time)) * noise


def clean_from_noise(schedule: Schedule, state: Picture, lq: Picture, noise: Picture, time: float) -> Picture:
    """Return x̂0 for a prediction of the noise in a state, at a time above 0."""
    alpha, sigma_bar = float(schedule.alpha(time)), float(schedule.sigma_bar(time))
    return lq + (state - lq - sigma_bar * noise) / alpha
