"""Command line: `clipsr-gateway keys`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from clipsr_gateway._access.keys import KeyLimits, add_key, read_keys
from clipsr_gateway.errors import ConfigurationError

_EPILOG = "A running gateway takes the change over within seconds. Exit status: 0 done, 2 wrong option or file."


def build_keys_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `keys`."""
    parser = argparse.ArgumentParser(
        prog="clipsr-gateway keys", description="Makes and lists the API keys of a key file.", epilog=_EPILOG
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    new = commands.add_parser(
        "new",
        help="make a key, print it, and write its hash to the file",
        description="Makes a key and prints it, once: the file holds only its hash. A name that is there already gets "
        "a further key and keeps its limits, so that a caller can change over before the old key goes.",
        epilog=_EPILOG,
    )
    new.add_argument("name", metavar="NAME", help="who the key is for; appears in logs and metrics")
    new.add_argument("--replace", action="store_true", help="make the name's former keys invalid")
    new.add_argument(
        "--items-per-second", metavar="N", type=float, help="images or texts a second, on average (default: unlimited)"
    )
    new.add_argument(
        "--burst", metavar="N", type=int, help="images or texts at once (default: those of two seconds, at least 1)"
    )
    new.add_argument("--max-concurrent-calls", metavar="N", type=int, help="calls in progress (default: unlimited)")
    listing = commands.add_parser(
        "list",
        help="show names, limits and the beginnings of the hashes",
        description="Shows names, limits and the beginnings of the hashes.",
        epilog=_EPILOG,
    )
    for command in (new, listing):
        command.add_argument(
            "--file", metavar="FILE", type=Path, default=Path("api-keys.json"), help="key file (default: %(default)s)"
        )
    return parser


def run_keys(argv: Sequence[str]) -> None:
    """Run `clipsr-gateway keys ARGV`.

    Raises:
        ConfigurationError: the file or an option is wrong.
    """
    options = build_keys_parser().parse_args(argv)
    if options.command == "list":
        _list(options.file)
        return
    key = add_key(options.file, options.name, limits=_limits(options), replaces=options.replace)
    print(key)
    print(
        f"clipsr-gateway: key of {options.name!r}; it is shown only here, {options.file} has its hash", file=sys.stderr
    )


def _limits(options: argparse.Namespace) -> KeyLimits | None:
    """Return the limits asked for; None where nothing was, which keeps those of the file."""
    rate, burst, calls = options.items_per_second, options.burst, options.max_concurrent_calls
    if rate is None and burst is None and calls is None:
        return None
    if burst is None:
        burst = max(1, round(2 * rate)) if rate else 0
    try:
        return KeyLimits(items_per_second=rate or 0.0, burst=burst, max_concurrent_calls=calls or 0)
    except ValueError as cause:
        raise ConfigurationError(f"Wrong limits: {cause}.") from cause


def _list(path: Path) -> None:
    for key in read_keys(path).keys.values():
        limits = key.limits
        rate = f"{limits.items_per_second:g} items/s, burst {limits.burst}" if limits.items_per_second else "any rate"
        calls = f"{limits.max_concurrent_calls} calls at once" if limits.max_concurrent_calls else "any number of calls"
        hashes = ", ".join(f"{digest[:8]}…" for digest in key.sha256)
        print(f"{key.name}: {rate}, {calls}; sha256 {hashes}")
