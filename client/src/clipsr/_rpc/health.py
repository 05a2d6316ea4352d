"""The standard health service, grpc.health.v1: what its answers mean, and when waiting for one is over."""

from __future__ import annotations

import time

from grpc_health.v1 import health_pb2

from clipsr._errors import ClipsrError, DeadlineError
from clipsr._rpc.errors import not_ready

SERVICE_UNKNOWN = "SERVICE_UNKNOWN"
"""What Watch answers about a service that the server does not have; Check fails with NOT_FOUND instead."""

_SERVING = "SERVING"
_PAUSE_S = 0.25  # between two questions; short beside the seconds that a model takes to load
_ASK_S = 5.0  # for one answer; a health check that takes longer is not a healthy one's
_LEAST_S = 0.001  # a deadline has to be one, even where the time is up by now
_NO_ANSWER = "it gave no answer"


def status_name(response: health_pb2.HealthCheckResponse) -> str:
    """Return the name of a status; numbers without a name are UNKNOWN."""
    names = health_pb2.HealthCheckResponse.ServingStatus
    return names.Name(response.status) if response.status in names.values() else "UNKNOWN"


class ReadinessPoller:
    """Decides whether waiting for a service is over; asks nobody itself.

    Args:
        url: the address, for errors.
        timeout_s: how long to wait, in seconds.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._end_s = time.monotonic() + timeout_s
        self._answer: str | ClipsrError = _NO_ANSWER
        self._is_cut_short = False

    def next_timeout_s(self) -> float:
        """Return the deadline of the next question, in seconds."""
        left_s = self._left_s()
        self._is_cut_short = left_s < _ASK_S
        return max(min(_ASK_S, left_s), _LEAST_S)

    def pause_s(self) -> float:
        """Return how long to wait before the next question, in seconds."""
        return min(_PAUSE_S, self._left_s())

    def observe(self, answer: str | ClipsrError) -> bool:
        """Return whether the service is ready.

        Args:
            answer: what health() returned or raised.

        Raises:
            ClipsrError: it is not, and another question would come too late. A last question that was cut short by the
                end of the time counts for nothing; what the service said before does.
        """
        if answer == _SERVING:
            return True
        if not isinstance(answer, DeadlineError):
            self._answer = answer
        elif not self._is_cut_short:
            self._answer = _NO_ANSWER
        if self._left_s() > _PAUSE_S:
            return False
        if isinstance(self._answer, ClipsrError):
            raise self._answer
        raise not_ready(self._url, state=self._answer, timeout_s=self._timeout_s)

    def _left_s(self) -> float:
        return max(0.0, self._end_s - time.monotonic())
