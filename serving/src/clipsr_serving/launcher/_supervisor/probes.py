"""Decides from probes whether a process that runs also works."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._supervisor.checks import BackgroundCheck


@dataclass(frozen=True, kw_only=True)
class ProbePolicy:
    """How often a process is asked once it is ready, and when it counts as hung.

    Attributes:
        interval_s: between an answer and the next probe.
        timeout_s: for one probe. The default is many times what a small image waits behind others.
        failures: in a row.
    """

    interval_s: float = 10.0
    timeout_s: float = 20.0
    failures: int = 3

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            LaunchError: naming the value.
        """
        if self.interval_s <= 0 or self.timeout_s <= 0 or self.failures < 1:
            raise LaunchError("--probe-interval and --probe-timeout must be positive.")

    @property
    def valid_for_s(self) -> float:
        """How long an answer counts: the next probe has failed or been answered by then, on both routes of Triton."""
        return self.interval_s + 2 * self.timeout_s + 10

    @property
    def patience_s(self) -> float:
        """How long a process may do nothing before it counts as hung."""
        return self.failures * (self.interval_s + self.timeout_s)


class LivenessProbe:
    """Probes one process over and over, in the background.

    Args:
        ask: whether it answers; may take seconds; a LaunchError counts as no.
        policy: how often, and how many failures make a fault.
    """

    def __init__(self, ask: Callable[[], bool], policy: ProbePolicy) -> None:
        self._check = BackgroundCheck(ask)
        self._policy = policy
        self.reset()

    def reset(self) -> None:
        """Begin with a process that has just answered."""
        self._check.reset()
        self._failures = 0
        self._answered_s = time.monotonic()
        self._next_s = self._answered_s + self._policy.interval_s

    @property
    def answered_s(self) -> float:
        """When the last probe was answered, on the monotonic clock; 0 if it was not."""
        return 0.0 if self._failures else self._answered_s

    def find_fault(self) -> str | None:
        """Probe when it is time; return what is wrong after too many failures, as the end of a sentence."""
        if time.monotonic() < self._next_s:
            return None
        is_answered = self._check.poll()
        if is_answered is None:
            return None
        now = time.monotonic()
        self._next_s = now + self._policy.interval_s
        if is_answered:
            self._failures, self._answered_s = 0, now
            return None
        self._failures += 1
        if self._failures < self._policy.failures:
            return None
        why = f" ({self._check.objection})" if self._check.objection else ""
        return f"runs but does not answer: {self._failures} probes in a row failed{why}"
