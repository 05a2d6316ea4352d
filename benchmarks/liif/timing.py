"""Times that can be compared: every subject once in each round, so that whatever disturbs the machine meets all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

# Between two subjects: whatever the last one left running (sleeping threads, freed memory) comes to rest.
_PAUSE_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median of a quantity over the rounds, with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize one value a round; two rounds at least.

        Raises:
            ValueError: there are fewer than two values.
        """
        if len(values) < 2:
            raise ValueError(f"a spread needs at least two rounds, got {len(values)}")
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median=median, low=low, high=high)


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    n_rounds: int,
    min_s: float,
    report: Callable[[int], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Time every call in every round; the order rotates from round to round.

    Args:
        calls: what to time, by name. Each runs once, untimed, right before it is timed.
        n_rounds: rounds.
        min_s: seconds that a call is repeated for within a round; a slower call runs once.
        report: called with the number of each finished round.

    Returns:
        Milliseconds a call, one value a round.
    """
    names = list(calls)
    results: dict[str, list[float]] = {name: [] for name in names}
    for i in range(n_rounds):
        start = i % len(names)
        for name in names[start:] + names[:start]:
            time.sleep(_PAUSE_S)
            results[name].append(_time_once(calls[name], min_s))
        report(i + 1)
    return results


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """Divide round by round, so that a slow round is slow on both sides; then summarize."""
    return Spread.of([n / d for n, d in zip(numerator, denominator, strict=True)])


def _time_once(call: Callable[[], object], min_s: float) -> float:
    call()
    n_calls, begin = 0, time.perf_counter()
    while True:
        call()
        n_calls += 1
        elapsed_s = time.perf_counter() - begin
        if elapsed_s >= min_s:
            return 1e3 * elapsed_s / n_calls
