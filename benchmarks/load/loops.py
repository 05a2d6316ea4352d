"""The two loops: callers who wait for their answers, and callers who do not know of each other."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from benchmarks.load.summary import Sample

__all__ = ["Ask", "arrivals", "closed_loop", "open_loop"]

Ask = Callable[[int], Awaitable[str]]
"""Asks for the image of this number; returns a status and never raises for one."""

# A caller whose call fails at once would ask thousands of times a second and disturb what is measured.
_PAUSE_AFTER_ERROR_S = 0.02


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the times of a Poisson process, in seconds from its beginning, ascending."""
    generator = random.Random(seed)
    at_s = generator.expovariate(rate)
    while at_s < seconds:
        yield at_s
        at_s += generator.expovariate(rate)


async def closed_loop(
    asks: Sequence[Ask], *, start_s: float, end_s: float, clock: Callable[[], float] = time.monotonic
) -> list[Sample]:
    """Let every caller ask from `start_s` on until `end_s`, and wait for the last answers.

    Args:
        asks: one a caller.
        start_s: on the clock.
        end_s: no call begins later.
        clock: monotonic seconds.
    """
    samples: list[Sample] = []

    async def caller(first: int, ask: Ask) -> None:
        number = first
        while (sent_s := clock()) < end_s:
            status = await ask(number)
            samples.append(Sample(sent_s, sent_s, clock(), status))
            number += len(asks)
            if status != "OK":
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)

    await asyncio.sleep(max(0.0, start_s - clock()))
    await asyncio.gather(*(caller(i, ask) for i, ask in enumerate(asks)))
    return samples


async def open_loop(
    asks: Sequence[Ask], times_s: Iterator[float], *, start_s: float, clock: Callable[[], float] = time.monotonic
) -> list[Sample]:
    """Begin a call at each of the times, and wait for the last answers.

    Args:
        asks: connections, used in turn.
        times_s: seconds after `start_s`, ascending.
        start_s: on the clock.
        clock: monotonic seconds.
    """
    samples: list[Sample] = []
    tasks: set[asyncio.Task[None]] = set()

    async def call(number: int, due_s: float) -> None:
        sent_s = clock()
        status = await asks[number % len(asks)](number)
        samples.append(Sample(due_s, sent_s, clock(), status))

    for number, at_s in enumerate(times_s):
        due_s = start_s + at_s
        if (delay_s := due_s - clock()) > 0:
            await asyncio.sleep(delay_s)
        task = asyncio.ensure_future(call(number, due_s))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return samples
