"""How many images one service classifies in a second, at a latency that callers accept.

    python -m benchmarks.load.capacity --url HOST:PORT --images DIR --labels @cifar100 --p99-ms 200

Asks with 1, 2, 4 … callers at once, each with one image a call and no pause, which is the load that many independent
callers make. The capacity is the highest rate at which the 99th percentile of latency stays within `--p99-ms` and no
call fails. docs/deployment.md makes a number of pods of it. Run it from another machine than the service's: it needs
processor time itself.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsr import Client, ClipsrError

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_WARM_UP_S = 2.0  # connections, the labels' embeddings, and the service's own measure of its speed


@dataclass(frozen=True, kw_only=True)
class Load:
    """What came of one number of callers.

    Attributes:
        callers: how many asked at once.
        rate: images classified in a second.
        p50_ms, p99_ms: percentiles of the latency of calls that succeeded, in milliseconds; 0 without any.
        failed: calls that did not succeed, refused ones included.
    """

    callers: int
    rate: float
    p50_ms: float
    p99_ms: float
    failed: int


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Return the smallest value that at least this fraction of the values does not exceed; 0 for no values.

    Args:
        ordered: values in ascending order.
        fraction: above 0, at most 1.
    """
    if not ordered:
        return 0.0
    # Counted in ceiling division, without the rounding of floats: 0.99 * 100 is not 99.
    rank = -(-len(ordered) * round(fraction * 1000) // 1000)
    return ordered[rank - 1]


def find_capacity(loads: Sequence[Load], *, p99_ms: float) -> Load | None:
    """Return the load of the highest rate whose 99th percentile is within the limit and that failed no call.

    None if none.
    """
    good = [load for load in loads if load.failed == 0 and 0 < load.p99_ms <= p99_ms]
    return max(good, key=lambda load: load.rate, default=None)


def measure(ask: Sequence[Callable[[], None]], *, seconds: float, warm_up_s: float = _WARM_UP_S) -> Load:
    """Let callers ask again and again, each on a thread of its own.

    Args:
        ask: one for each caller; raises ClipsrError if a call fails.
        seconds: how long to measure.
        warm_up_s: asked before that, and not counted.
    """
    latencies_ms: list[float] = []  # appending is atomic
    failures: list[ClipsrError] = []
    begin = time.perf_counter() + warm_up_s
    end = begin + seconds

    def call_until_end(one: Callable[[], None]) -> None:
        while (now := time.perf_counter()) < end:
            try:
                one()
            except ClipsrError as error:
                if now >= begin:
                    failures.append(error)
                time.sleep(0.01)  # a refusal comes at once; without a pause it would be asked a thousand times a second
            else:
                if now >= begin:
                    latencies_ms.append(1000 * (time.perf_counter() - now))

    threads = [threading.Thread(target=call_until_end, args=(one,)) for one in ask]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latencies_ms.sort()
    return Load(
        callers=len(ask),
        rate=len(latencies_ms) / seconds,
        p50_ms=percentile(latencies_ms, 0.5),
        p99_ms=percentile(latencies_ms, 0.99),
        failed=len(failures),
    )


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
    images = sorted(path.read_bytes() for path in options.images.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not images:
        parser.error(f"{options.images} holds no image")
    counts = [int(word) for word in options.callers.split(",") if word.strip().isdigit()]
    if not counts or min(counts) < 1:
        parser.error("--callers must be whole numbers with commas between, 1 or more")
    print(f"{'callers':>7} {'images/s':>9} {'p50 ms':>7} {'p99 ms':>7} {'failed':>7}", flush=True)
    loads = []
    with _connect(options) as client:
        for count in counts:
            turns = itertools.cycle(images)
            load = measure([_make_ask(client, turns, options.labels)] * count, seconds=options.seconds)
            print(f"{count:>7} {load.rate:>9.1f} {load.p50_ms:>7.0f} {load.p99_ms:>7.0f} {load.failed:>7}", flush=True)
            loads.append(load)
    capacity = find_capacity(loads, p99_ms=options.p99_ms)
    if capacity is None:
        print(f"No load kept the 99th percentile within {options.p99_ms:g} ms without a failure.", file=sys.stderr)
        return 1
    print(f"Capacity: {capacity.rate:.1f} images/s with {capacity.callers} callers, p99 {capacity.p99_ms:.0f} ms.")
    return 0


def _connect(options: argparse.Namespace) -> Client:
    return Client(
        options.url,
        timeout_s=60,
        retries=0,  # a refusal is a result here
        tls=options.ca or options.tls,
        cert_file=options.cert,
        key_file=options.key,
        api_key=options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else None,
    )


def _make_ask(client: Client, turns: itertools.cycle[bytes], labels: str) -> Callable[[], None]:
    label_set = labels.removeprefix("@") if labels.startswith("@") else ""
    own = () if label_set else labels.split(",")

    def ask() -> None:
        client.classify([next(turns)], own, label_set=label_set)

    return ask


if __name__ == "__main__":
    sys.exit(main())
