"""The mean-reverting SDE from a clean picture to its damaged one, as tables.

dx = θ_t (μ − x) dt + σ_t dw with σ_t² = 2 λ² θ_t, so that x_t = μ + α_t (x_0 − μ) + σ̄_t ε: at t = 0 the clean picture,
at t = T the damaged one (μ) under noise of deviation λ.

Source: Luo et al. 2023 (IR-SDE), equations 1 to 6, with the cosine schedule of its published code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How fast a picture turns into its damaged one.

    Attributes:
        n_times: T, the last time; times are 0 (clean) to T, fractions included.
        max_sigma: deviation of the noise at T, in levels of 255.
        eps: what is left of the clean picture at T: α_T.
    """

    n_times: int = 100
    max_sigma: float = 50.0
    eps: float = 0.005

    def __post_init__(self) -> None:
        if self.n_times < 1:
            raise ValueError(f"n_times must be at least 1, got {self.n_times}")
        if not 0 < self.max_sigma < math.inf:
            raise ValueError(f"max_sigma must be a finite number above 0, got {self.max_sigma}")
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must be between 0 and 1, got {self.eps}")

    @property
    def noise_level(self) -> float:
        """λ, the deviation of the noise at T, for pictures in [0, 1]."""
        return self.max_sigma / 255

    @cached_property
    def theta(self) -> np.ndarray:
        """θ_t at the whole times, float64 [T + 1]; θ_0 belongs to no step."""
        n = self.n_times + 2
        cosines = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * np.pi / 2) ** 2
        return 1 - cosines[1:-1] / cosines[0]

    @cached_property
    def theta_cumsum(self) -> np.ndarray:
        """Θ_t, the sum of θ over the steps up to t, float64 [T + 1]; Θ_0 = 0."""
        return np.cumsum(self.theta) - self.theta[0]

    @property
    def dt(self) -> float:
        """Length of a step, chosen such that α_T is `eps`."""
        return -math.log(self.eps) / float(self.theta_cumsum[-1])

    def reversion(self, time: float | np.ndarray) -> np.ndarray:
        """Return Θ_t dt = −ln α_t, float64 of the shape of `time`; linear between whole times."""
        return np.interp(time, np.arange(self.n_times + 1), self.theta_cumsum) * self.dt

    def alpha(self, time: float | np.ndarray) -> np.ndarray:
        """Return α_t, what is left of the clean picture, float64 of the shape of `time`."""
        return np.exp(-self.reversion(time))

    def sigma_bar(self, time: float | np.ndarray) -> np.ndarray:
        """Return σ̄_t, the deviation of the noise at t for pictures in [0, 1], float64 of the shape of `time`."""
        return self.noise_level * np.sqrt(-np.expm1(-2 * self.reversion(time)))
