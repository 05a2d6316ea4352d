"""Command line: `clipsr-gateway`, which serves, and `clipsr-gateway keys`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from clipsr_gateway._access.keys_cli import run_keys
from clipsr_gateway._access.tls import TlsConfig
from clipsr_gateway._admission.controller import AdmissionConfig
from clipsr_gateway._logs import LEVELS, configure_logging, report_failure
from clipsr_gateway._server.gateway import GatewayConfig, serve
from clipsr_gateway._server.operations import OperationsConfig
from clipsr_gateway._tracing import read_tracing_config
from clipsr_gateway.errors import ConfigurationError, GatewayError

__all__ = ["main"]

EXIT_FAILED = 1
EXIT_USAGE = 2

# The port that OpenTelemetry reserves for Prometheus pages.
_DEFAULT_METRICS = "127.0.0.1:9464"

_MIB = 1024 * 1024


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with an option as the program says everything else."""

    def error(self, message: str) -> NoReturn:
        if sys.stderr.isatty():
            super().error(message)
        report_failure(f"{message}; see clipsr-gateway --help")
        self.exit(EXIT_USAGE)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its defaults are those of GatewayConfig."""
    defaults = GatewayConfig()
    parser = _Parser(
        prog="clipsr-gateway",
        description="The typed gRPC services of clipsr.v1 in front of a Triton server.",
        epilog="Stops on SIGTERM or SIGINT after the calls in flight; SIGHUP reads the key file again. "
        "`clipsr-gateway keys --help` tells how to make API keys. "
        "Exit status: 0 stopped, 1 cannot listen, 2 wrong option or file.",
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
        "--shutdown-delay",
        metavar="SECONDS",
        type=float,
        default=defaults.shutdown_delay_s,
        help="time to serve on at shutdown while health says NOT_SERVING, so that load balancers notice",
    )
    parser.add_argument(
        "--grace",
        metavar="SECONDS",
        type=float,
        default=defaults.grace_s,
        help="time for calls in flight to finish at shutdown, after that",
    )
    parser.add_argument(
        "--library-uri",
        metavar="PATH|s3://...",
        help="folder or object store for image libraries; without one there are none",
    )
    _add_guards(parser)
    _add_observers(parser)
    parser.add_argument("--log-level", choices=LEVELS, default="info", help="least level that is logged")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('clipsr-gateway')}")
    return parser


def _add_guards(parser: argparse.ArgumentParser) -> None:
    guards = parser.add_argument_group("authentication, rate limits and admission control")
    guards.add_argument(
        "--api-keys",
        metavar="FILE",
        type=Path,
        help="file of API keys, read again whenever it changes; without one anybody may call",
    )
    guards.add_argument("--tls-cert", metavar="FILE", type=Path, help="certificate chain in PEM; needs --tls-key")
    guards.add_argument("--tls-key", metavar="FILE", type=Path, help="its private key in PEM, not encrypted")
    guards.add_argument(
        "--tls-client-ca",
        metavar="FILE",
        type=Path,
        help="callers must show a certificate of these authorities",
    )
    defaults = AdmissionConfig()
    guards.add_argument(
        "--max-slowdown",
        metavar="N",
        type=float,
        default=defaults.max_slowdown,
        help="refuse calls that would take this many times longer than alone",
    )
    guards.add_argument(
        "--latency-floor",
        metavar="SECONDS",
        type=float,
        default=defaults.latency_floor_s,
        help="but none that would take no longer than this",
    )
    guards.add_argument(
        "--max-calls", metavar="N", type=int, default=defaults.max_calls, help="calls in progress at once"
    )
    guards.add_argument(
        "--max-queued-mib",
        metavar="N",
        type=int,
        default=defaults.max_queued_bytes // _MIB,
        help="MiB of requests in progress",
    )


def _add_observers(parser: argparse.ArgumentParser) -> None:
    observers = parser.add_argument_group("metrics and traces")
    observers.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help=f"address of the Prometheus page, or off (default: {_DEFAULT_METRICS}, none where that is taken)",
    )
    observers.add_argument(
        "--otlp-endpoint",
        metavar="URL",
        help="OpenTelemetry collector for traces, over gRPC (default: as the OTEL_… variables say; none: no traces)",
    )


def _read_operations(options: argparse.Namespace) -> OperationsConfig:
    """Raise ConfigurationError for options that contradict each other."""
    tls = None
    if options.tls_cert and options.tls_key:
        tls = TlsConfig(certificate=options.tls_cert, key=options.tls_key, client_ca=options.tls_client_ca)
    elif options.tls_cert or options.tls_key or options.tls_client_ca:
        raise ConfigurationError("--tls-cert and --tls-key belong together, and --tls-client-ca needs both.")
    try:
        admission = AdmissionConfig(
            max_slowdown=options.max_slowdown,
            latency_floor_s=options.latency_floor,
            max_calls=options.max_calls,
            max_queued_bytes=options.max_queued_mib * _MIB,
        )
    except ValueError as cause:
        message = str(cause).replace("max_queued_bytes", "max_queued_mib").replace("floor_s", "floor").replace("_", "-")
        raise ConfigurationError(f"--{message}") from cause
    return OperationsConfig(
        api_keys=options.api_keys,
        tls=tls,
        metrics=None if options.metrics == "off" else options.metrics or _DEFAULT_METRICS,
        is_metrics_optional=options.metrics is None,
        tracing=read_tracing_config(options.otlp_endpoint or None, os.environ),
        admission=admission,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the gateway until it is told to stop.

    Returns:
        The exit status: 0 stopped as told, 1 cannot listen, 2 wrong option or file.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["keys"]:
            run_keys(arguments[1:])
            return 0
        options = build_parser().parse_args(arguments)
        config = GatewayConfig(
            listen=options.listen,
            triton=options.triton,
            repository=options.repository,
            max_concurrent=options.max_concurrent,
            shutdown_delay_s=options.shutdown_delay,
            grace_s=options.grace,
            library_uri=options.library_uri or None,
            operations=_read_operations(options),
        )
        configure_logging(options.log_level)
        # Pillow warns about odd files on standard error; callers' files are not the operator's business.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        asyncio.run(serve(config))
    except GatewayError as error:
        report_failure(str(error))
        return EXIT_USAGE if isinstance(error, ConfigurationError) else EXIT_FAILED
    return 0
