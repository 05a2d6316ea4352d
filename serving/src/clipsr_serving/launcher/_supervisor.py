"""Runs Triton and the gateway until told to stop, or until one of them ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._logs import follow_logs
from clipsr_serving.launcher._options import Endpoint, Ports, UpOptions, claim_ports
from clipsr_serving.launcher._probe import find_executable, is_gateway_serving, is_triton_ready, run_canary
from clipsr_serving.launcher._processes import ManagedProcess, list_model_instances
from clipsr_serving.launcher._reasons import explain_gateway_log, explain_triton_log
from clipsr_serving.launcher._repository import check_repository
from clipsr_serving.launcher._state import State, StateDir
from clipsr_serving.launcher._triton import make_triton_command, remove_shared_memory

__all__ = ["run_service"]

_POLL_S = 0.2
# Reads /proc once; a service that lost a model is told broken within these seconds.
_INSTANCE_POLL_S = 2.0
# The gateway drains running requests; Triton has its own --exit-timeout-secs, and unloads models after it.
_STOP_TIMEOUT_S = 30
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class _StopRequestedError(Exception):
    """A signal asked to stop while something was awaited."""


def run_service(options: UpOptions, state_dir: StateDir) -> None:
    """Start everything, wait for the end, stop everything.

    Returns after SIGTERM, SIGINT or SIGHUP.

    Raises:
        LaunchError: it could not start, or a process ended by itself.
    """
    stop = threading.Event()
    _stop_on_signals(stop)
    with state_dir.lock():
        _refuse_orphans(state_dir)
        check_repository(options.repository)
        ports = claim_ports(options)
        service = _Service(options, ports, state_dir, stop)
        try:
            service.start()
            service.watch()
        except _StopRequestedError:
            pass
        finally:
            service.stop()
            state_dir.clear()


def _stop_on_signals(stop: threading.Event) -> None:
    def request_stop(number: int, frame: FrameType | None) -> None:
        # A flag and no exception: an exception could fall between starting a process and remembering it.
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, request_stop)


def _refuse_orphans(state_dir: StateDir) -> None:
    state = state_dir.read()
    alive = [child for child in state.children if child.is_alive] if state else []
    if alive:
        names = " and ".join(f"{child.name} (pid {child.pid})" for child in alive)
        raise LaunchError(f"{names} of a clipsr-serve that was killed still run; stop them with `clipsr-serve down`.")


class _Service:
    """The two processes and the order in which they live."""

    def __init__(self, options: UpOptions, ports: Ports, state_dir: StateDir, stop: threading.Event) -> None:
        self._options = options
        self._state_dir = state_dir
        self._stop = stop
        self._deadline = time.monotonic() + options.timeout_s
        self._processes: list[ManagedProcess] = []
        self._triton = {
            name: _reachable(options.triton_address, port)
            for name, port in (
                ("http", ports.triton_http),
                ("grpc", ports.triton_grpc),
                ("metrics", ports.triton_metrics),
            )
        }
        self._listen = None if ports.gateway is None else replace(options.listen, port=ports.gateway)
        self._url = None if self._listen is None else _reachable(self._listen.host, self._listen.port)
        self._command = make_triton_command(options, ports=ports, state_dir=state_dir.path)

    def start(self) -> None:
        """Triton first, then the gateway; returns when the service answers a real request."""
        began = time.monotonic()
        # Looked for now: to find out after Triton's start that one is missing would waste the user's time.
        programs = _find_programs() if self._listen else None
        self._spawn("triton", self._command.argv, self._command.environment)
        _say(f"Triton ({self._command.kind}) is starting; its log is {self._state_dir.log('triton')}")
        self._wait(lambda: is_triton_ready(self._triton["http"]), "Triton")
        if programs and self._listen and self._url:
            self._start_gateway(*programs, self._listen, self._url)
        else:
            run_canary(self._triton["http"])
        self._write("ready")
        triton = ", ".join(f"{name} {address}" for name, address in self._triton.items())
        _say(f"ready after {time.monotonic() - began:.1f} s: {self._url or 'no gateway'} (Triton: {triton})")

    def _start_gateway(self, gateway: Path, client: Path, listen: Endpoint, url: str) -> None:
        flags = (
            "--listen",
            str(listen),
            "--triton",
            self._triton["grpc"],
            "--repository",
            str(self._options.repository),
        )
        self._spawn("gateway", (str(gateway), *flags), os.environ)
        self._wait(lambda: is_gateway_serving(client, url), "The gateway")

    def watch(self) -> None:
        """Return when told to stop.

        Raises:
            LaunchError: a process ended by itself, one of a model's included.
        """
        triton = self._processes[0]
        instances = list_model_instances(triton.pid)
        next_look = time.monotonic() + _INSTANCE_POLL_S
        while not self._stop.wait(_POLL_S):
            self._check_processes()
            if time.monotonic() > next_look:
                self._check_instances(instances - list_model_instances(triton.pid))
                next_look = time.monotonic() + _INSTANCE_POLL_S

    def _check_instances(self, lost: frozenset[str]) -> None:
        """Triton neither restarts a model process that was killed nor reports itself unready; every request fails."""
        if lost:
            raise LaunchError(
                f"Triton lost its model process {', '.join(sorted(lost))} (killed, perhaps for lack of memory); look "
                f"into {self._processes[0].log}, and start again with `clipsr-serve up`."
            )

    def stop(self) -> None:
        """The gateway first, so that it drains into a Triton that still answers."""
        if self._processes:
            self._write("stopping")
        for process in reversed(self._processes):
            process.stop(_STOP_TIMEOUT_S)
        if self._processes:
            remove_shared_memory(self._state_dir.path)
            _say("stopped")

    def _spawn(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        process = ManagedProcess(name, argv, environment, self._state_dir.log(name))
        self._processes.append(process)
        self._write("starting")
        if self._options.verbose:
            threading.Thread(target=follow_logs, args=([process.log], sys.stderr), daemon=True).start()

    def _wait(self, is_ready: Callable[[], bool], what: str) -> None:
        while not is_ready():
            self._check_processes()
            if self._stop.wait(_POLL_S):
                raise _StopRequestedError
            if time.monotonic() > self._deadline:
                raise LaunchError(
                    f"{what} is not ready after {self._options.timeout_s:g} s; see {self._state_dir.path}/*.log, "
                    "or give it more time with --timeout."
                )

    def _check_processes(self) -> None:
        for process in self._processes:
            if process.exit_code is not None:
                explain = explain_triton_log if process.name == "triton" else explain_gateway_log
                raise LaunchError(
                    f"{process.name} ended with code {process.exit_code}: {explain(process.read_log())}. "
                    f"The whole log is {process.log}"
                )

    def _write(self, phase: str) -> None:
        state = State(
            pid=os.getpid(),
            phase=phase,
            url=self._url,
            triton=self._triton,
            triton_kind=self._command.kind,
            profile=self._options.profile,
            repository=str(self._options.repository),
            children=tuple(process.describe() for process in self._processes),
        )
        self._state_dir.write(state)


def _reachable(host: str, port: int) -> str:
    """An address that a local client can connect to, also where the server listens on all."""
    return str(Endpoint(host=_WILDCARDS.get(host, host), port=port))


def _find_programs() -> tuple[Path, Path]:
    return find_executable("clipsr-gateway", "clipsr-gateway"), find_executable("clipsr-client", "clipsr")


def _say(sentence: str) -> None:
    print(f"clipsr-serve: {sentence}", file=sys.stderr, flush=True)
