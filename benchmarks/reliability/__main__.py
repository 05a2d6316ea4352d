"""What docs/reliability.md promises, measured on a running service.

    clipsr-serve up --detach --state-dir DIR
    python -m benchmarks.reliability overload --state-dir DIR

Each command measures one promise, prints a table and ends with 1 if the promise does not hold. `overload` and `mixed`
need processor time of their own: run them from another machine with `--url`, or say so beside the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.load.access import Access
from benchmarks.load.plan import Target
from benchmarks.reliability._balanced import FAULTS, measure_balanced
from benchmarks.reliability._faults import measure_full_disk, measure_hang
from benchmarks.reliability._fuzz import fuzz_images, fuzz_requests
from benchmarks.reliability._hostile import measure_chunks, measure_scans, measure_silent
from benchmarks.reliability._instances import PROXIES, Instance, balanced
from benchmarks.reliability._overload import measure_mixed, measure_overload
from benchmarks.reliability._processes import measure_drain, measure_kill, measure_soak
from benchmarks.reliability._service import Service
from benchmarks.reliability._verdict import Verdict, documented_reasons, render
from benchmarks.reporting.environment import describe_environment

_ERRORS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"

_Measure = Callable[[argparse.Namespace], Sequence[Verdict]]


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability", description="Measure what docs/reliability.md promises."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text, defaults in (
        ("overload", "several times more calls than the service can answer", {"callers": 16, "seconds": 60.0}),
        ("mixed", "one caller's giants beside another's small images", {"seconds": 60.0}),
        ("kill", "SIGKILL of Triton, then of the gateway, under load", {"callers": 16}),
        ("drain", "SIGTERM under load; the service is gone afterwards", {"callers": 16}),
        ("soak", "many different requests, and the memory of every process", {"callers": 8, "count": 50_000}),
        ("scans", "JPEGs that take long to decode for their pixels", {"callers": 2, "seconds": 30.0}),
        ("silent", "calls that never send their message", {"callers": 32, "seconds": 30.0}),
        ("chunks", "bodies of a million one-byte chunks for Triton's HTTP ports", {"seconds": 30.0}),
        ("hang", "SIGSTOP of a model's process, then of the gateway, under load", {"callers": 4}),
        ("full-disk", "no room for state, logs and libraries", {"callers": 4, "seconds": 10.0}),
        ("fuzz-images", "damaged images", {"count": 10_000}),
        ("fuzz-requests", "requests of every shape, and bytes that are none", {"count": 10_000}),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        where = command.add_mutually_exclusive_group(required=True)
        where.add_argument("--url", metavar="HOST:PORT", help="the service")
        where.add_argument("--state-dir", type=Path, metavar="DIR", help="that of a `clipsr-serve up` on this machine")
        command.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds the caller's key")
        command.add_argument("--json", type=Path, metavar="FILE", help="write the result there, with the environment")
        if "callers" in defaults:
            command.add_argument("--callers", type=int, metavar="N", help="callers at once (%(default)s)")
        if "seconds" in defaults:
            command.add_argument("--seconds", type=float, metavar="S", help="of each part (%(default)g)")
        if "count" in defaults:
            command.add_argument("--count", type=int, metavar="N", help="how many (%(default)s)")
        command.set_defaults(**defaults)
        if name == "overload":
            command.add_argument("--factor", type=float, default=4.0, metavar="N", help="times capacity (%(default)g)")
        if name == "mixed":
            command.add_argument("--megapixels", type=float, default=64.0, metavar="N", help="of giants (%(default)g)")
            command.add_argument("--labels", type=int, default=10_000, metavar="N", help="of a request (%(default)s)")
        if name == "kill":
            command.add_argument(
                "--victim", choices=("triton", "gateway"), action="append", help="may be given twice (default: both)"
            )
        if name == "hang":
            command.add_argument(
                "--victim",
                action="append",
                metavar="NAME",
                help="gateway, triton, or a model; may be given twice (default: image_path, then gateway)",
            )
            command.add_argument(
                "--within",
                type=float,
                default=105.0,
                metavar="S",
                help="until it answers again: 15, and 3 x (interval + timeout) of the probes of `up` (%(default)g)",
            )
    _add_balanced(commands)
    return parser


def _add_balanced(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "services behind a load balancer: restarted one after the other, killed, cut off, stopped"
    command = commands.add_parser(
        "balanced",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. Starts them itself, in network namespaces, as root.",
    )
    command.add_argument("--proxy", choices=sorted(PROXIES), required=True, help="the load balancer")
    command.add_argument("--instances", type=int, default=3, metavar="N", help="services behind it (%(default)s)")
    command.add_argument("--callers", type=int, default=16, metavar="N", help="callers at once (%(default)s)")
    command.add_argument(
        "--rate", type=float, default=4.0, metavar="N", help="calls a second of each caller at most (%(default)g)"
    )
    command.add_argument("--retries", type=int, default=3, metavar="N", help="of the client library (%(default)s)")
    command.add_argument("--seconds", type=float, default=60.0, metavar="S", help="of each part (%(default)g)")
    command.add_argument("--fault", choices=sorted(FAULTS), action="append", help="may be given twice (default: all)")
    command.add_argument(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        metavar="DIR",
        help="model repository (%(default)s)",
    )
    command.add_argument("--gateway-option", action="append", default=[], metavar="OPTION", help="of clipsr-gateway")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result there, with the environment")


def _target(options: argparse.Namespace) -> Target:
    key = options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else ""
    return Target(kind="grpc", url=options.url or _service(options).url, access=Access(api_key=key))


def _service(options: argparse.Namespace) -> Service:
    if options.state_dir is None:
        raise SystemExit(f"{options.command} looks at the service's processes; give --state-dir, not --url")
    return Service(state_dir=options.state_dir, command=_find_launcher())


def _find_launcher() -> Path:
    # This interpreter's own environment may have no Triton beside it.
    command = shutil.which("clipsr-serve")
    if command is None:
        raise SystemExit("clipsr-serve is not on PATH; put .venv-serve/bin there")
    return Path(command)


def _overload(options: argparse.Namespace) -> Sequence[Verdict]:
    return asyncio.run(
        measure_overload(_target(options), callers=options.callers, seconds=options.seconds, factor=options.factor)
    )


def _mixed(options: argparse.Namespace) -> Sequence[Verdict]:
    return asyncio.run(
        measure_mixed(_target(options), seconds=options.seconds, megapixels=options.megapixels, labels=options.labels)
    )


def _kill(options: argparse.Namespace) -> Sequence[Verdict]:
    service, verdicts = _service(options), []
    for victim in options.victim or ("triton", "gateway"):
        target = _target(options)
        documented = documented_reasons(_ERRORS_PAGE)
        verdicts += asyncio.run(measure_kill(service, target, victim, documented=documented, callers=options.callers))
    return verdicts


def _drain(options: argparse.Namespace) -> Sequence[Verdict]:
    return asyncio.run(measure_drain(_service(options), _target(options), callers=options.callers))


def _soak(options: argparse.Namespace) -> Sequence[Verdict]:
    return asyncio.run(
        measure_soak(_service(options), _target(options), requests=options.count, callers=options.callers)
    )


def _scans(options: argparse.Namespace) -> Sequence[Verdict]:
    return asyncio.run(measure_scans(_target(options), callers=options.callers, seconds=options.seconds))


def _silent(options: argparse.Namespace) -> Sequence[Verdict]:
    return asyncio.run(measure_silent(_target(options), callers=options.callers, seconds=options.seconds))


def _chunks(options: argparse.Namespace) -> Sequence[Verdict]:
    ports = _service(options).http_ports()
    return asyncio.run(measure_chunks(_target(options), ports, seconds=options.seconds))


def _hang(options: argparse.Namespace) -> Sequence[Verdict]:
    service, target, verdicts = _service(options), _target(options), []
    documented = documented_reasons(_ERRORS_PAGE)
    for victim in options.victim or ("image_path", "gateway"):
        verdicts += asyncio.run(
            measure_hang(
                service, target, victim, within_s=options.within, documented=documented, callers=options.callers
            )
        )
    return verdicts


def _full_disk(options: argparse.Namespace) -> Sequence[Verdict]:
    documented = documented_reasons(_ERRORS_PAGE)
    return asyncio.run(
        measure_full_disk(
            _service(options),
            _target(options),
            documented=documented,
            callers=options.callers,
            seconds=options.seconds,
        )
    )


def _balanced(options: argparse.Namespace) -> Sequence[Verdict]:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaves no process and no namespace
    with tempfile.TemporaryDirectory(prefix="clipsr-") as name:
        folder, command = Path(name), _find_launcher()
        instances = [
            Instance(
                number=number,
                service=Service(state_dir=folder / str(number), command=command),
                repository=options.repository.absolute(),
                gateway_options=tuple(options.gateway_option),
            )
            for number in range(1, options.instances + 1)
        ]
        with balanced(options.proxy, instances, folder) as url:
            return asyncio.run(
                measure_balanced(
                    url,
                    instances,
                    callers=options.callers,
                    rate=options.rate,
                    retries=options.retries,
                    seconds=options.seconds,
                    faults=options.fault or tuple(FAULTS),
                )
            )


def _fuzz(options: argparse.Namespace) -> Sequence[Verdict]:
    fuzz = fuzz_images if options.command == "fuzz-images" else fuzz_requests
    before = _service(options).process_tree() if options.state_dir else {}
    verdicts = fuzz(_target(options), count=options.count, documented=documented_reasons(_ERRORS_PAGE))
    if options.state_dir:
        after = _service(options).process_tree()
        verdicts.append(
            Verdict(
                claim="the same processes, none restarted",
                measured=f"{len(before)} before, {len(after)} after, {len(before.items() ^ after.items())} differ",
                holds=before == after,
            )
        )
    return verdicts


_COMMANDS: dict[str, _Measure] = {
    "overload": _overload,
    "mixed": _mixed,
    "kill": _kill,
    "drain": _drain,
    "soak": _soak,
    "scans": _scans,
    "silent": _silent,
    "chunks": _chunks,
    "hang": _hang,
    "full-disk": _full_disk,
    "balanced": _balanced,
    "fuzz-images": _fuzz,
    "fuzz-requests": _fuzz,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 if what was promised holds."""
    options = make_parser().parse_args(arguments)
    began_s = time.monotonic()
    verdicts = _COMMANDS[options.command](options)
    print(render(verdicts))
    if options.json:
        document = {
            "command": options.command,
            "seconds": round(time.monotonic() - began_s, 1),
            "environment": describe_environment(["clipsr", "grpcio"]),
            "verdicts": [asdict(verdict) for verdict in verdicts],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
