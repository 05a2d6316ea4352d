"""How many images one service classifies in a second, at a latency that callers accept.

    python -m benchmarks.load.capacity --url HOST:PORT --images DIR --labels @cifar100 --p99-ms 200

Asks with 1, 2, 4 … callers at once, each with one image a call and no pause, which is the load that many independent
callers make. The capacity is the highest rate at which the 99th percentile of latency stays within `--p99-ms` and no
call fails. docs/deployment.md makes a number of pods of it. Run it from another machine than the service's: it needs
processor time itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.load.access import Access
from benchmarks.load.generator import LoadError, run_load
from benchmarks.load.images import read_images
from benchmarks.load.plan import ClosedLoop, Plan, Target
from benchmarks.load.summary import Summary

_MOST_IMAGES = 10_000  # of a folder; more would only take memory


def find_capacity(loads: Mapping[int, Summary], *, p99_ms: float) -> int | None:
    """Return the number of callers with the highest rate whose p99 is within the limit and that failed no call.

    None if there is no such number.
    """
    good = [n for n, load in loads.items() if not load.errors and 0 < load.latency_ms.get("p99", 0.0) <= p99_ms]
    return max(good, key=lambda n: loads[n].throughput, default=None)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load.capacity",
        description="Measure how many images a second a service classifies at a latency that callers accept.",
    )
    parser.add_argument("--url", default="localhost:50051", metavar="HOST:PORT", help="the service (%(default)s)")
    parser.add_argument("--images", type=Path, default=Path("samples"), metavar="DIR", help="images (%(default)s)")
    parser.add_argument("--labels", default="@cifar10", help="labels with commas, or @NAME of a set (%(default)s)")
    parser.add_argument("--callers", default="1,2,4,8,16,32", metavar="N,…", help="callers at once (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="for each number (%(default)g)")
    parser.add_argument("--p99-ms", type=float, default=500.0, metavar="MS", help="accepted latency (%(default)g)")
    parser.add_argument("--tls", action="store_true", help="speak TLS, trusting the authorities of this machine")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="speak TLS, trusting these authorities")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="the caller's certificate")
    parser.add_argument("--key", type=Path, metavar="FILE", help="its private key")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds the API key")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if there is no capacity at that latency, 2 for a wrong option."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    counts = [int(word) for word in options.callers.split(",") if word.strip().isdigit()]
    if not counts or min(counts) < 1:
        parser.error("--callers must be whole numbers with commas between, 1 or more")
    try:
        read_images(str(options.images), 1)
        target = _target(options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    try:
        loads = _measure(target, str(options.images), counts, options.seconds)
    except LoadError as error:
        print(error, file=sys.stderr)
        return 1
    best = find_capacity(loads, p99_ms=options.p99_ms)
    if best is None:
        print(f"No load kept the 99th percentile within {options.p99_ms:g} ms without a failure.", file=sys.stderr)
        return 1
    load = loads[best]
    print(f"Capacity: {load.throughput:.1f} images/s with {best} callers, p99 {load.latency_ms['p99']:.0f} ms.")
    return 0


def _measure(target: Target, images: str, counts: Sequence[int], seconds: float) -> dict[int, Summary]:
    """Measure each number of callers, and print a line for it."""
    print(f"{'callers':>7} {'images/s':>9} {'p50 ms':>7} {'p99 ms':>7} {'failed':>7}", flush=True)
    loads: dict[int, Summary] = {}
    for n in counts:
        plan = Plan(
            target=target,
            loop=ClosedLoop(callers=n),
            images_from=images,
            n_images=_MOST_IMAGES,
            measure_s=seconds,
            timeout_s=60.0,
        )
        loads[n] = load = run_load(plan).summary
        p50_ms, p99_ms = (load.latency_ms.get(name, 0.0) for name in ("p50", "p99"))
        failed = sum(load.errors.values())
        print(f"{n:>7} {load.throughput:>9.1f} {p50_ms:>7.0f} {p99_ms:>7.0f} {failed:>7}", flush=True)
    return loads


def _target(options: argparse.Namespace) -> Target:
    access = Access(
        api_key=options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else "",
        tls=options.tls,
        ca_file=str(options.ca or ""),
        cert_file=str(options.cert or ""),
        key_file=str(options.key or ""),
    )
    is_set = options.labels.startswith("@")
    return Target(
        kind="grpc",
        url=options.url,
        labels=() if is_set else tuple(options.labels.split(",")),
        label_set=options.labels[1:] if is_set else "",
        access=access,
    )


if __name__ == "__main__":
    sys.exit(main())
