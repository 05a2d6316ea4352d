"""Decides when a process that ended is started again."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr_serving.errors import LaunchError


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """How often and how soon.

    Attributes:
        max_restarts: restarts in a row, without a healthy period in between, before the service gives up; 0 never
            restarts, None never gives up.
        first_delay_s: before the first restart; each further one in a row waits twice as long.
        max_delay_s: no wait is longer.
        healthy_after_s: after so long without a failure the count starts from zero.
    """

    max_restarts: int | None = None
    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    healthy_after_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            LaunchError: naming the value.
        """
        if self.max_restarts is not None and self.max_restarts < 0:
            raise LaunchError(f"--max-restarts must not be negative; it is {self.max_restarts}.")
        if not 0 <= self.first_delay_s <= self.max_delay_s:
            raise LaunchError(f"The first delay ({self.first_delay_s} s) must be between 0 and {self.max_delay_s} s.")


class Backoff:
    """Counts the failures of one process."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._in_a_row = 0
        self._total = 0

    @property
    def in_a_row(self) -> int:
        """Restarts since it was last healthy for long enough."""
        return self._in_a_row

    @property
    def total(self) -> int:
        """Restarts altogether."""
        return self._total

    def record_failure(self) -> float | None:
        """Return how long to wait before the restart, in seconds; None if it has been restarted too often."""
        policy = self._policy
        if policy.max_restarts is not None and self._in_a_row >= policy.max_restarts:
            return None
        # The exponent is bounded because a float overflows after a thousand failures.
        delay_s = min(policy.first_delay_s * 2.0 ** min(self._in_a_row, 32), policy.max_delay_s)
        self._in_a_row += 1
        self._total += 1
        return delay_s

    def record_health(self, healthy_s: float) -> None:
        """Forget the failures once it has been healthy for `healthy_s` seconds and that is long enough."""
        if healthy_s >= self._policy.healthy_after_s:
            self._in_a_row = 0
