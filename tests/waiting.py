"""Waiting for a condition, the one way in which tests wait for what other processes and threads do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_until"]

_PAUSE_S = 0.02

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float = 60.0, *, what: Callable[[], str] | str = "it") -> T:
    """Call a condition until what it returns is true; return that.

    Args:
        condition: looks at what is waited for; whatever it raises ends the waiting.
        timeout_s: so long at most. It only bounds how long a failing test takes, so be generous.
        what: for the error, what did not happen; called when it is too late.

    Raises:
        TimeoutError: the condition was not true in time.
    """
    ends_s = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > ends_s:
            raise TimeoutError(f"{what if isinstance(what, str) else what()} did not happen within {timeout_s:g} s")
        time.sleep(_PAUSE_S)
    return found
