"""Command line: `clipsr-gateway`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from clipsr_gateway._logs import LEVELS, configure_logging
from clipsr_gateway._server import GatewayConfig, serve
from clipsr_gateway.errors import ConfigurationError, GatewayError

__all__ = ["main"]

EXIT_FAILED = 1
EXIT_USAGE = 2


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser; its defaults are those of GatewayConfig."""
    defaults = GatewayConfig()
    parser = argparse.ArgumentParser(
        prog="clipsr-gateway",
        description="The typed gRPC services of clipsr.v1 in front of a Triton server.",
        epilog="Stops on SIGTERM or SIGINT after the calls in flight. "
        "Exit status: 0 stopped, 1 cannot listen, 2 wrong option or manifest.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--listen", metavar="HOST:PORT", default=defaults.listen, help="address to serve on")
    parser.add_argument("--triton", metavar="HOST:PORT", default=defaults.triton, help="Triton's gRPC endpoint")
    parser.add_argument(
        "--repository",
        metavar="DIR",
        type=Path,
        default=defaults.repository,
        help="model repository, read for its manifest.json",
    )
    parser.add_argument(
        "--max-concurrent", metavar="N", type=int, default=defaults.max_concurrent, help="requests in Triton at once"
    )
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=defaults.grace_s,
        help="time for calls in flight to finish at shutdown",
    )
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="least level that is logged")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('clipsr-gateway')}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the gateway until it is told to stop.

    Returns:
        The exit status: 0 stopped as told, 1 cannot listen, 2 wrong option or manifest.
    """
    options = build_parser().parse_args(argv)
    try:
        config = GatewayConfig(
            listen=options.listen,
            triton=options.triton,
            repository=options.repository,
            max_concurrent=options.max_concurrent,
            grace_s=options.grace,
        )
        configure_logging(options.log_level)
        # Pillow warns about odd files on standard error; callers' files are not the operator's business.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        asyncio.run(serve(config))
    except GatewayError as error:
        print(f"clipsr-gateway: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, ConfigurationError) else EXIT_FAILED
    return 0
