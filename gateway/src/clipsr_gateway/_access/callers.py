"""Who calls, and what each may still do: rate and calls in progress, kept while the key file changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from clipsr.v1 import types_pb2
from clipsr_gateway._access.keys import ApiKey, KeyLimits
from clipsr_gateway.errors import RateExceededError, TooManyCallsError

# How long a caller with too many calls in progress should wait; when one of them ends, nobody knows.
_CALLS_RETRY_S = 0.5

# RetryInfo of less would only make the caller come back too early.
_MIN_RETRY_S = 0.05


class TokenBucket:
    """An average rate with bursts.

    A request of more items than `burst` passes when the bucket is full and leaves a debt, so that no size is refused
    for ever and the average holds all the same.

    Args:
        rate: tokens a second.
        burst: tokens that a full bucket holds.
        clock: seconds, monotonic.
    """

    def __init__(self, *, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._updated_s = clock()

    def take(self, count: int) -> float:
        """Take `count` tokens if they are there.

        Returns:
            0 if they were taken, else the seconds after which they would be, with none taken.
        """
        now_s = self._clock()
        self._tokens = min(self._burst, self._tokens + (now_s - self._updated_s) * self._rate)
        self._updated_s = now_s
        missing = min(count, self._burst) - self._tokens
        # Rounding must not make a caller who waited exactly as told wait again.
        if missing > 1e-6:
            return max(missing / self._rate, _MIN_RETRY_S)
        self._tokens -= count
        return 0.0


class Caller:
    """One name of the key file, over all of its keys and connections.

    Attributes:
        name: as in the key file.
    """

    def __init__(self, key: ApiKey, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = key.name
        self._clock = clock
        self._calls = 0
        self._set(key.limits)

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return self._calls

    def change(self, limits: KeyLimits) -> None:
        """Take over new limits; calls in progress stay counted, and unchanged limits keep their bucket."""
        if limits != self._limits:
            self._set(limits)

    @contextmanager
    def call(self) -> Generator[None]:
        """Count a call in progress.

        Raises:
            TooManyCallsError: as many as allowed are in progress.
        """
        most = self._limits.max_concurrent_calls
        if most and self._calls >= most:
            message = f"This API key has {self._calls} calls in progress, as many as it may; wait for one to end."
            raise TooManyCallsError(message, retry_s=_CALLS_RETRY_S)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def take(self, items: int) -> None:
        """Count items against the rate.

        Raises:
            RateExceededError: they are too many for now; none was counted.
        """
        wait_s = self.time_until(items)
        if wait_s:
            rate = self._limits.items_per_second
            message = f"This API key may send {rate:g} items a second; try again in {wait_s:.2f} s."
            raise RateExceededError(message, retry_s=wait_s)

    def time_until(self, items: int) -> float:
        """Count items against the rate if they are within it; else returns the seconds until they are."""
        return self._bucket.take(items) if self._bucket else 0.0

    def to_proto(self) -> types_pb2.CallerLimits:
        """Return what GetModelInfo tells this caller."""
        return types_pb2.CallerLimits(
            items_per_second=self._limits.items_per_second,
            burst=self._limits.burst,
            max_concurrent_calls=self._limits.max_concurrent_calls,
        )

    def _set(self, limits: KeyLimits) -> None:
        self._limits = limits
        self._bucket: TokenBucket | None = None
        if limits.items_per_second:
            self._bucket = TokenBucket(rate=limits.items_per_second, burst=limits.burst, clock=self._clock)
