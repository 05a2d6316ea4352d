"""When a call is made again, and after how long; nothing here waits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from clipsr._codecs.arguments import as_count
from clipsr._errors import ClipsrError, RateLimitedError, ServiceUnavailableError

DEFAULT_RETRIES = 3
"""Enough for a lost connection or a restarted gateway behind a balancer; a service that is down is soon said to be."""

_FIRST_DELAY_S = 0.2  # about a reconnection
_MAX_DELAY_S = 5.0  # the channel's own grpc.max_reconnect_backoff_ms: trying more often would meet the same failure
_FACTOR = 2.0
_JITTER = 0.5  # callers that failed together come back apart


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter, for failures after which a second attempt is safe and may succeed.

    Most calls of this package only compute, or leave the same behind however often they are made, so that a second
    attempt is safe; whether it may succeed, the error says: nobody answered, the service cannot work at the moment, or
    it asked to come back later. A call whose second attempt would be answered otherwise, such as creating a library, is
    made again only where the service itself said that it did not do it.

    Attributes:
        retries: attempts after the first; 0 makes none.
        is_repeatable: whether a call that may have been done can be done again.
        draw: gives numbers in [0, 1).
    """

    retries: int = DEFAULT_RETRIES
    is_repeatable: bool = True
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        """Refuse a number that cannot be meant.

        Raises:
            InvalidRequestError: `retries` is negative.
            TypeError: it is no whole number.
        """
        as_count("retries", self.retries, advice="give how often to try again, or 0 for never")

    def delay_s(self, error: ClipsrError, *, attempt: int, left_s: float) -> float | None:
        """Return how long to wait before the next attempt, in seconds; None to give up.

        Args:
            error: how the last attempt ended.
            attempt: attempts made so far without success, at least 1.
            left_s: what remains of the caller's deadline, in seconds.
        """
        if attempt > self.retries or not isinstance(error, (ServiceUnavailableError, RateLimitedError)):
            return None
        if not (self.is_repeatable or error.reason):  # without a reason, the service was lost, not heard
            return None
        if error.reason and error.retry_after_s is None:  # it was heard, and another attempt would be answered alike
            return None
        backoff_s = min(_FIRST_DELAY_S * _FACTOR ** (attempt - 1), _MAX_DELAY_S)
        if error.retry_after_s is None:
            delay_s = backoff_s * (1 - _JITTER * self.draw())
        else:  # never earlier than asked for
            delay_s = error.retry_after_s + backoff_s * _JITTER * self.draw()
        return delay_s if delay_s < left_s else None


class Deadline:
    """What is left of a call's time, over all of its attempts.

    Args:
        allowed_s: the whole, in seconds.
    """

    def __init__(self, allowed_s: float) -> None:
        self.allowed_s = allowed_s
        self._end_s = time.monotonic() + allowed_s

    def left_s(self) -> float:
        """Return what is left, in seconds; never below 0."""
        return max(0.0, self._end_s - time.monotonic())
