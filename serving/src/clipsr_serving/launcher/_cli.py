"""The command line of clipsr-serve."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._detached import start_detached, stop_service
from clipsr_serving.launcher._gateway import find_guard_options, find_library_uri
from clipsr_serving.launcher._logs import follow_logs, print_logs
from clipsr_serving.launcher._options import Endpoint, UpOptions, parse_endpoint
from clipsr_serving.launcher._state import LOG_NAMES, State, StateDir, find_state_dir
from clipsr_serving.launcher._supervisor.probes import ProbePolicy
from clipsr_serving.launcher._supervisor.restarts import RestartPolicy

_DEFAULT_TIMEOUT_S = 300.0  # openvino compiles a ViT-L/14 in about a minute on two cores
_NOT_RUNNING_EXIT_CODE = 3  # as systemctl status
_UP_EPILOG = """\
A process that ends after the service was ready is started again, after 0.5 s, then 1 s,
2 s and so on up to 30 s, until it has been healthy for a minute. Triton counts as ended
when one of its model processes is gone, and a process that runs but no longer answers
is killed first. Meanwhile the other process continues, `clipsr-serve status` says
restarting, and the gateway answers UNAVAILABLE without Triton. What fails before the
service was ready ends it.

Options after -- go to clipsr-gateway; its --help names them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    own, gateway_options = _split(arguments)
    parser = make_parser()
    options = parser.parse_args(own)
    if gateway_options and options.command is not _up:
        parser.error("only `clipsr-serve up` takes options of the gateway after --")
    options.gateway_options = gateway_options
    explicit = Path(options.state_dir) if options.state_dir else None
    state_dir = StateDir(find_state_dir(explicit, name=options.name, environment=dict(os.environ)))
    command: Callable[[argparse.Namespace, list[str], StateDir], int] = options.command
    try:
        return command(options, arguments, state_dir)
    except LaunchError as error:
        print(f"clipsr-serve: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _split(arguments: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Return what is ours, and what comes after `--`; by hand, as argparse would take it for positional arguments."""
    if "--" not in arguments:
        return arguments, ()
    index = arguments.index("--")
    return arguments[:index], tuple(arguments[index + 1 :])


def make_parser() -> argparse.ArgumentParser:
    """Return the whole command line; a test compares its help with the documentation."""
    parser = argparse.ArgumentParser(
        prog="clipsr-serve", description="Runs clipsr: Triton, and the typed gateway in front of it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up",
        help="start, and stay until Ctrl-C or SIGTERM",
        description="Starts the service.",
        epilog=_UP_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [OPTION ...] [-- GATEWAY_OPTION ...]",
    )
    _add_up_flags(up)
    down = commands.add_parser("down", help="stop a detached service", description="Stops a service.")
    status = commands.add_parser(
        "status", help="say what is running; exit code 3 if nothing is", description="Says what is running."
    )
    status.add_argument(
        "--ready", action="store_true", help="exit code 3 also unless all answered their last probe; for probes"
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    logs = commands.add_parser("logs", help="print the logs", description="Prints the logs of Triton and the gateway.")
    logs.add_argument("process", nargs="?", choices=LOG_NAMES, help="only this one's")
    logs.add_argument("-f", "--follow", action="store_true", help="follow: print lines as they are added, until Ctrl-C")
    logs.add_argument("--lines", type=int, default=100, metavar="N", help="last lines of each log (%(default)s)")
    for command, run in ((up, _up), (down, _down), (status, _status), (logs, _logs)):
        command.add_argument("--name", default="default", help="name of the service, one a machine (%(default)s)")
        command.add_argument(
            "--state-dir", metavar="DIR", help="folder of state and logs ($XDG_STATE_HOME/clipsr/NAME)"
        )
        command.set_defaults(command=run)
    return parser


def _add_up_flags(up: argparse.ArgumentParser) -> None:
    up.add_argument("--detach", action="store_true", help="return when it is ready, and leave it in the background")
    up.add_argument(
        "--profile",
        metavar="NAME",
        help="engine and processor: cpu (openvino, in the fastest type that was exported and this one has), cpu-int8, "
        "cpu-bf16, cpu-onnx, gpu-onnx, gpu-tensorrt, or another NAME of configs/NAME.pbtxt (the variable "
        "CLIPSR_PROFILE, or else cpu; cpu-onnx with NVIDIA's own Triton)",
    )
    up.add_argument(
        "--triton",
        choices=("auto", "embedded", "path", "docker"),
        default="auto",
        help="which Triton to run; auto: the one on PATH, else the embedded one, else docker (%(default)s)",
    )
    up.add_argument(
        "--processes",
        choices=("auto", "shared", "separate"),
        default="auto",
        help="shared: one process of the embedded Triton does all that is done to an image, which is faster; "
        "separate: a process for each model; auto: shared where it can be (%(default)s)",
    )
    up.add_argument("--triton-path", type=Path, metavar="FILE", help="the tritonserver of --triton path")
    up.add_argument(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        metavar="DIR",
        help="model repository (%(default)s)",
    )
    up.add_argument(
        "--listen",
        type=_endpoint,
        default=parse_endpoint("127.0.0.1:50051"),
        metavar="HOST:PORT",
        help="address of the gateway (%(default)s); a port of 0, here and below, picks a free one",
    )
    _add_triton_flags(up)
    up.add_argument(
        "--library-uri",
        metavar="PATH|s3://...|off",
        help="folder or object store for image libraries (the folder libraries in --state-dir)",
    )
    up.add_argument("--no-gateway", action="store_true", help="run Triton only")
    _add_supervision_flags(up)


def _add_supervision_flags(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--timeout",
        type=_seconds,
        default=_DEFAULT_TIMEOUT_S,
        metavar="S",
        help="seconds until it must answer (%(default)g), after a restart too",
    )
    up.add_argument(
        "--max-restarts",
        type=_count,
        metavar="N",
        help="give up once Triton or the gateway ended after N restarts in a row; 0 never restarts (never give up)",
    )
    up.add_argument(
        "--probe-interval",
        type=_seconds,
        default=ProbePolicy.interval_s,
        metavar="S",
        help="seconds between probes of Triton and the gateway once they are ready (%(default)g)",
    )
    up.add_argument(
        "--probe-timeout",
        type=_seconds,
        default=ProbePolicy.timeout_s,
        metavar="S",
        help="seconds for the answer; after 3 failures in a row the process is replaced (%(default)g)",
    )
    up.add_argument("-v", "--verbose", action="store_true", help="repeat the logs of Triton and the gateway here")


def _add_triton_flags(up: argparse.ArgumentParser) -> None:
    up.add_argument(
        "--triton-address", default="127.0.0.1", metavar="HOST", help="address of Triton's ports (%(default)s)"
    )
    up.add_argument(
        "--triton-metrics-address",
        metavar="HOST",
        help="address of Triton's metrics port alone, for a Prometheus elsewhere (that of --triton-address)",
    )
    up.add_argument(
        "--triton-http-port", type=_port, metavar="PORT", help="open Triton's HTTP port as well (closed; SECURITY.md)"
    )
    for name, port in (("grpc", 8001), ("metrics", 8002)):
        up.add_argument(
            f"--triton-{name}-port",
            type=_port,
            default=port,
            metavar="PORT",
            help=f"Triton's {name} port (%(default)s)",
        )
    up.add_argument(
        "--triton-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="one more option for tritonserver, such as --triton-option=--log-verbose=1; may be given again",
    )


def _endpoint(text: str) -> Endpoint:
    try:
        return parse_endpoint(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return seconds


def _up(options: argparse.Namespace, arguments: list[str], state_dir: StateDir) -> int:
    if options.detach:
        attached = [argument for argument in arguments if argument != "--detach"]
        state = start_detached(attached, state_dir, timeout_s=options.timeout)
        print(f"clipsr-serve: {_describe(state)}")
        return 0
    gateway_options: tuple[str, ...] = options.gateway_options
    if not options.no_gateway:
        gateway_options = (*find_guard_options(gateway_options, os.environ), *gateway_options)
    up = UpOptions(
        repository=options.repository.absolute(),
        listen=options.listen,
        triton=options.triton,
        triton_path=options.triton_path,
        triton_address=options.triton_address,
        triton_http_port=options.triton_http_port,
        triton_grpc_port=options.triton_grpc_port,
        triton_metrics_port=options.triton_metrics_port,
        profile=options.profile or os.environ.get("CLIPSR_PROFILE") or None,
        has_gateway=not options.no_gateway,
        timeout_s=options.timeout,
        verbose=options.verbose,
        restart=RestartPolicy(max_restarts=options.max_restarts),
        probe=ProbePolicy(interval_s=options.probe_interval, timeout_s=options.probe_timeout),
        gateway_options=gateway_options,
        triton_options=tuple(options.triton_option),
        triton_metrics_address=options.triton_metrics_address,
        processes=options.processes,
        library_uri=find_library_uri(options.library_uri, state_dir=state_dir.path),
    )
    # Here and not above: it reads the manifest with pydantic, for which the other verbs should not wait.
    from clipsr_serving.launcher._supervisor.service import run_service

    run_service(up, state_dir)
    return 0


def _down(options: argparse.Namespace, arguments: list[str], state_dir: StateDir) -> int:
    print(f"clipsr-serve: {stop_service(state_dir)}")
    return 0


def _status(options: argparse.Namespace, arguments: list[str], state_dir: StateDir) -> int:
    state = state_dir.read() if state_dir.is_locked() else None
    if options.json:
        print(json.dumps({"running": False} if state is None else {"running": True, **asdict(state)}))
    else:
        print(f"clipsr-serve: {'not running' if state is None else _describe(state)}")
    is_fine = state is not None and (state.is_ready(time.monotonic()) or not options.ready)
    return 0 if is_fine else _NOT_RUNNING_EXIT_CODE


def _describe(state: State) -> str:
    triton = ", ".join(f"{name} {address}" for name, address in state.triton.items())
    children = ", ".join(f"{child.name} {child.pid}" for child in state.children)
    restarts = ", ".join(f"{name} {count}" for name, count in state.restarts.items() if count)
    children += f"; restarts: {restarts}" if restarts else ""
    silent = [name for name, answered_s in state.answered_s.items() if not answered_s]
    children += f"; failed its last probe: {', '.join(silent)}" if silent and state.phase == "ready" else ""
    return (
        f"{state.phase} at {state.url or 'no gateway'}; Triton ({state.triton_kind}) {triton}; "
        f"pid {state.pid} ({children}); model repository {state.repository}"
    )


def _logs(options: argparse.Namespace, arguments: list[str], state_dir: StateDir) -> int:
    names = [options.process] if options.process else LOG_NAMES
    logs = [state_dir.log(name) for name in names]
    if not any(log.exists() for log in logs):
        raise LaunchError(f"There are no logs in {state_dir.path}; start the service with `clipsr-serve up`.")
    positions = print_logs(logs, sys.stdout, last_lines=options.lines)
    if options.follow:
        follow_logs(logs, sys.stdout, positions=positions)
    return 0
