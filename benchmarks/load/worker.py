"""One process of the load generator: reads a plan and a starting time, asks, writes what came of every call.

    python -m benchmarks.load.worker < plan

First line of the input: the plan as JSON. It prints `ready` once it is connected; the second line of the input is the
monotonic time to begin at. Then it prints all samples as JSON, with the processor time that it took itself.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time

from benchmarks.load.drivers import connect
from benchmarks.load.images import read_images
from benchmarks.load.loops import arrivals, closed_loop, open_loop
from benchmarks.load.plan import ClosedLoop, Plan
from benchmarks.load.summary import Sample

# Of a process in an open loop, where HTTP/2 carries many calls at once and HTTP/1.1 opens more sockets as needed.
_OPEN_LOOP_CONNECTIONS = 4


async def run(plan: Plan) -> tuple[list[Sample], float]:
    """Connect, say so, wait for the starting time, and carry out the plan.

    Returns:
        The samples, and the processor seconds of this process in the measured time.
    """
    images = read_images(plan.images_from, plan.n_images)
    loop = plan.loop
    n_callers = loop.callers if isinstance(loop, ClosedLoop) else _OPEN_LOOP_CONNECTIONS
    connections = min(plan.connections or n_callers, n_callers)
    async with connect(plan.target, images, connections=connections, timeout_s=plan.timeout_s) as asks:
        await asks[0](0)  # imports, name resolution, connection: not part of the first measured call
        print("ready", flush=True)
        start_s = float(await asyncio.to_thread(sys.stdin.readline))
        gc.collect()
        gc.freeze()  # a collection among the requests would be a pause of the generator, not of the service
        total_s = plan.warm_up_s + plan.measure_s
        cpu_s = asyncio.ensure_future(_cpu_between(start_s + plan.warm_up_s, start_s + total_s))
        if isinstance(loop, ClosedLoop):
            callers = [asks[i % len(asks)] for i in range(loop.callers)]
            samples = await closed_loop(callers, start_s=start_s, end_s=start_s + total_s)
        else:
            samples = await open_loop(asks, arrivals(loop.rate, total_s, plan.seed), start_s=start_s)
        return samples, await cpu_s


async def _cpu_between(begin_s: float, end_s: float) -> float:
    await asyncio.sleep(max(0.0, begin_s - time.monotonic()))
    before_s = time.process_time()
    await asyncio.sleep(max(0.0, end_s - time.monotonic()))
    return time.process_time() - before_s


def main() -> int:
    """Read the plan, run it, print the samples."""
    plan = Plan.from_json(sys.stdin.readline())
    samples, cpu_s = asyncio.run(run(plan))
    fields = [(s.due_s, s.sent_s, s.ended_s, s.status) for s in samples]
    print(json.dumps({"samples": fields, "cpu_s": cpu_s}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
