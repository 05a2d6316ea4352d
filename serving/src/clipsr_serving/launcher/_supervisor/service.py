"""Supervises Triton and the gateway until told to stop: starts, probes, restarts and stops them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from clipsr_serving.errors import ArtifactError, LaunchError
from clipsr_serving.launcher._gateway import find_gateway, make_gateway_argv, make_gateway_check
from clipsr_serving.launcher._logs import follow_logs
from clipsr_serving.launcher._options import Endpoint, Ports, UpOptions, claim_ports, parse_endpoint
from clipsr_serving.launcher._reasons import explain_end, explain_gateway_log, explain_triton_log
from clipsr_serving.launcher._state import State, StateDir
from clipsr_serving.launcher._supervisor.checks import BackgroundCheck
from clipsr_serving.launcher._supervisor.processes import (
    STATE_DIR_VARIABLE,
    InstanceWatch,
    ManagedProcess,
    limit_log,
    list_marked,
)
from clipsr_serving.launcher._supervisor.stop import StopRequest
from clipsr_serving.launcher._supervisor.unit import Unit
from clipsr_serving.launcher._triton.command import TritonCommand, choose_triton, make_triton_command, remove_leftovers
from clipsr_serving.launcher._triton.image_path import choose_processes
from clipsr_serving.launcher._triton.probe import is_gateway_alive, is_triton_alive, is_triton_ready, run_canary
from clipsr_serving.launcher._triton.profiles import require_machine
from clipsr_serving.launcher._triton.repository import check_repository, require_plain_paths
from clipsr_serving.manifest import Manifest, read_manifest
from clipsr_serving.profiles import choose_profile, default_profile, read_cpu_flags

_POLL_S = 0.2
# How much log to keep, twice at most: a container's /tmp is memory, and a request leaves about 300 bytes.
_MAX_LOG_BYTES = 16 * 1024 * 1024
# After the gateway's own grace, for its streams to end and its process to go.
_STOP_MARGIN_S = 10
# Triton has its own --exit-timeout-secs, and unloads models after it.
_TRITON_STOP_TIMEOUT_S = 30
_TRITON_ABORT_TIMEOUT_S = 3
# Triton fills every core under load; the gateway needs little, but promptly, to shed load in time.
_TRITON_NICENESS = 5
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class _StopRequestedError(Exception):
    """A signal asked to stop while something was awaited."""


class _ModelChangedError(Exception):
    """The repository holds another model than the one that is served."""


def run_service(options: UpOptions, state_dir: StateDir) -> None:
    """Start everything, wait for the end, stop everything.

    Returns after SIGTERM, SIGINT or SIGHUP.

    Raises:
        LaunchError: it could not start, or a process ended more often than the policy allows.
    """
    stop = StopRequest()
    stop.listen()
    with state_dir.lock():
        _refuse_orphans(state_dir)
        ports: Ports | None = None
        try:
            while True:
                chosen, kind, manifest = _choose(options, state_dir)
                ports = ports or claim_ports(chosen)
                command = make_triton_command(chosen, ports=ports, state_dir=state_dir.path)
                require_machine(chosen.profile, chosen.repository, manifest, triton_kind=kind)
                service = _Service(chosen, ports, command, manifest.digest, state_dir, stop)
                try:
                    service.start()
                    service.watch()
                    return
                except _ModelChangedError:
                    _say(f"{options.repository} holds another model by now; Triton and the gateway both start with it")
                finally:
                    service.stop()
        except _StopRequestedError:
            return
        finally:
            state_dir.clear()


def _choose(options: UpOptions, state_dir: StateDir) -> tuple[UpOptions, str, Manifest]:
    """Check what is to be served; return the options with a profile, the kind of Triton, and the manifest."""
    manifest = check_repository(options.repository)
    kind = choose_triton(options)
    require_plain_paths(options.repository, state_dir.path, triton_kind=kind)
    requested = options.profile or default_profile(options.repository, triton_kind=kind)
    choice = choose_profile(requested, options.repository, manifest, cpu_flags=read_cpu_flags())
    if choice.message:
        _say(choice.message)
    processes = choose_processes(options.processes, choice.config_name, triton_kind=kind)
    return replace(options, profile=choice.config_name, processes=processes), kind, manifest


def _refuse_orphans(state_dir: StateDir) -> None:
    state = state_dir.read()
    known = {child.pid: child.name for child in state.children if child.is_alive} if state else {}
    orphans = {pid: known.get(pid, "a process") for pid in [*known, *list_marked(state_dir.path)]}
    if orphans:
        names = " and ".join(f"{name} (pid {pid})" for pid, name in orphans.items())
        raise LaunchError(f"{names} of a clipsr-serve that was killed still run; stop them with `clipsr-serve down`.")


class _Service:
    """The two processes, started and stopped in order."""

    def __init__(
        self,
        options: UpOptions,
        ports: Ports,
        command: TritonCommand,
        digest: str,
        state_dir: StateDir,
        stop: StopRequest,
    ) -> None:
        self._options = options
        self._digest = digest
        self._state_dir = state_dir
        self._stop = stop
        self._deadline = time.monotonic() + options.timeout_s
        self._phase = "starting"
        self._written: State | None = None
        self._followed: set[str] = set()
        self._is_crash_forgiven = False
        self._unwritten: set[str] = set()
        self._addresses = {
            name: _reachable(address, port)
            for name, address, port in (
                ("http", options.triton_address, ports.triton_http),
                ("grpc", options.triton_address, ports.triton_grpc),
                ("metrics", options.metrics_address, ports.triton_metrics),
            )
            if port is not None
        }
        self._listen = None if ports.gateway is None else replace(options.listen, port=ports.gateway)
        self._url = None if self._listen is None else _reachable(self._listen.host, self._listen.port)
        self._command = command
        self._triton = self._make_triton()
        self._gateway = self._make_gateway(self._listen, self._url) if self._listen and self._url else None
        self._units = (self._triton,) if self._gateway is None else (self._triton, self._gateway)

    def _make_triton(self) -> Unit:
        probe = self._options.probe
        return Unit(
            "triton",
            spawn=self._spawn_triton,
            is_ready=lambda: _is_triton_working(self._addresses["grpc"]),
            is_alive=lambda: is_triton_alive(
                self._addresses["grpc"], metrics_address=self._addresses["metrics"], timeout_s=probe.timeout_s
            ),
            find_fault=InstanceWatch(patience_s=probe.patience_s).find_lost,
            explain_end=lambda process: _explain(process, explain_triton_log),
            clean=lambda: remove_leftovers(self._command, self._state_dir.path),
            policy=self._options.restart,
            probe=self._options.probe,
            timeout_s=self._options.timeout_s,
            say=_say,
        )

    def _make_gateway(self, listen: Endpoint, url: str) -> Unit:
        # Looked for now: to find out after Triton's start that one is missing would waste the user's time.
        argv = make_gateway_argv(find_gateway(), self._options, listen=listen, triton=self._addresses["grpc"])
        # gRPC's core would write lines into the log that are no JSON, about what it reports by errors anyway.
        environment = {"GRPC_VERBOSITY": "NONE"} | without_proxy(os.environ, self._addresses["grpc"])
        timeout_s, tls = self._options.probe.timeout_s, self._options.gateway_tls
        return Unit(
            "gateway",
            spawn=lambda: self._spawn("gateway", argv, environment),
            is_ready=make_gateway_check(self._options, url=url, log=self._state_dir.log("gateway")),
            is_alive=lambda: is_gateway_alive(url, timeout_s=timeout_s, tls=tls),
            find_fault=lambda process: None,
            explain_end=lambda process: _explain(process, explain_gateway_log),
            clean=lambda: None,
            policy=self._options.restart,
            probe=self._options.probe,
            timeout_s=self._options.timeout_s,
            say=_say,
        )

    def _spawn_triton(self) -> ManagedProcess:
        self._command.prepare()
        return self._spawn("triton", self._command.argv, self._command.environment)

    def _spawn(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> ManagedProcess:
        self._require_same_model()
        niceness = _TRITON_NICENESS if name == "triton" else 0
        marked = {**environment, STATE_DIR_VARIABLE: str(self._state_dir.path)}
        process = ManagedProcess(name, argv, marked, self._state_dir.log(name), niceness=niceness)
        if self._options.verbose and name not in self._followed:
            threading.Thread(target=follow_logs, args=([process.log], sys.stderr), daemon=True).start()
            self._followed.add(name)
        return process

    def _require_same_model(self) -> None:
        """Let no process start, or work, with another model than the other: an export may have replaced it meanwhile.

        Raises:
            _ModelChangedError: it has. A repository that is gone or damaged is left to what starts from it.
        """
        with contextlib.suppress(ArtifactError):
            if read_manifest(self._options.repository).digest != self._digest:
                raise _ModelChangedError

    def start(self) -> None:
        """Start Triton and the gateway beside it; return when the service answers a real request.

        The gateway takes a second to load, and waits for Triton by itself.

        Raises:
            LaunchError: a process ended, or is not ready in time.
        """
        began = time.monotonic()
        remove_leftovers(self._command, self._state_dir.path)  # of a supervisor that was killed with all its children
        self._start(self._triton)
        _say(f"Triton ({self._command.kind}) is starting; its log is {self._state_dir.log('triton')}")
        if self._gateway is not None:
            self._start(self._gateway)
        self._wait(lambda: is_triton_ready(self._addresses["grpc"]), "Triton")
        if self._gateway is not None:
            self._wait(self._gateway.probe, "The gateway")
        else:
            run_canary(self._addresses["grpc"])
        self._require_same_model()
        for unit in self._units:
            unit.mark_ready()
        self._enter("ready")
        triton = ", ".join(f"{name} {address}" for name, address in self._addresses.items())
        _say(f"ready after {time.monotonic() - began:.1f} s: {self._url or 'no gateway'} (Triton: {triton})")

    def _start(self, unit: Unit) -> None:
        unit.start()
        self._enter("starting")

    def _wait(self, is_ready: Callable[[], bool], what: str) -> None:
        check = BackgroundCheck(is_ready)
        while not check.poll():
            self._forgive_crash()
            for unit in self._units:
                unit.raise_if_ended()
            if self._stop.wait(_POLL_S):
                raise _StopRequestedError
            if time.monotonic() > self._deadline:
                raise LaunchError(
                    f"{what} is not ready after {self._options.timeout_s:g} s; see {self._state_dir.path}/*.log, "
                    "or give it more time with --timeout."
                )

    def _forgive_crash(self) -> None:
        """Start Triton once more if it crashed while it loaded its models.

        Seen with 24.10 on a machine without free processor time, a few times in a hundred starts: a model process
        crashes, and Triton with it (`boost::interprocess::lock_exception`; triton-inference-server/server issue 8882).
        """
        if self._triton.has_crashed and not self._is_crash_forgiven and self._options.restart.max_restarts != 0:
            self._is_crash_forgiven = True
            self._triton.start_after_crash()
            self._enter("starting")

    def watch(self) -> None:
        """Restart what ends; return when told to stop.

        Raises:
            LaunchError: a process ended more often than the policy allows.
        """
        away_since = 0.0
        while not self._stop.wait(_POLL_S):
            self._triton.tick()
            if self._gateway is not None:
                self._gateway.tick(can_work=self._triton.is_ready)
            is_ready = all(unit.is_ready for unit in self._units)
            if self._phase == "ready" and not is_ready:
                away_since = time.monotonic()
            elif self._phase != "ready" and is_ready:
                self._require_same_model()
                _say(f"ready again after {time.monotonic() - away_since:.1f} s")
            self._enter("ready" if is_ready else "restarting")
            self._limit_logs()

    def _limit_logs(self) -> None:
        logs = [unit.process.log for unit in self._units if unit.process is not None]
        own = self._state_dir.log("serve")
        for log in [*logs, own] if own.exists() else logs:
            try:
                limit_log(log, _MAX_LOG_BYTES)
            except OSError as error:
                self._say_unwritten(str(log), error)

    def _say_unwritten(self, what: str, error: OSError) -> None:
        """Say once that a file of our own cannot be written: the service is worth more than its bookkeeping."""
        if what not in self._unwritten:
            self._unwritten.add(what)
            _say(f"{what} cannot be written ({error.strerror}); the service continues without it")

    def stop(self) -> None:
        """Stop the gateway first, so that it drains into a Triton that still answers."""
        if all(unit.process is None for unit in self._units):
            return
        self._enter("stopping")
        if self._gateway is not None:
            self._gateway.stop(self._options.gateway_stop_s + _STOP_MARGIN_S)
        # One that is still loading has nothing to finish, and would first load all its models.
        self._triton.stop(_TRITON_STOP_TIMEOUT_S if self._triton.is_ready else _TRITON_ABORT_TIMEOUT_S)
        _say("stopped")

    def _enter(self, phase: str) -> None:
        """Write the state, if it is another than before."""
        self._phase = phase
        state = State(
            pid=os.getpid(),
            phase=phase,
            url=self._url,
            triton=self._addresses,
            triton_kind=self._command.kind,
            profile=self._options.profile,
            repository=str(self._options.repository),
            children=tuple(child for unit in self._units for child in unit.describe()),
            restarts={unit.name: unit.restarts for unit in self._units},
            answered_s={unit.name: unit.answered_s for unit in self._units},
            probed_for_s=self._options.probe.valid_for_s,
        )
        if state != self._written:
            self._written = state
            try:
                self._state_dir.write(state)
            except OSError as error:
                self._say_unwritten(f"The state in {self._state_dir.path}", error)


def without_proxy(environment: Mapping[str, str], address: str) -> dict[str, str]:
    """Return an environment in which no proxy stands between the gateway and its Triton."""
    hosts = ["localhost", "127.0.0.1", "::1", parse_endpoint(address).host]
    changed = dict(environment)
    for name in ("no_proxy", "NO_PROXY"):
        changed[name] = ",".join(dict.fromkeys([*filter(None, changed.get(name, "").split(",")), *hosts]))
    return changed


def _is_triton_working(address: str) -> bool:
    if not is_triton_ready(address):
        return False
    run_canary(address)
    return True


def _explain(process: ManagedProcess, explain_log: Callable[[str], str]) -> str:
    return explain_end(process.exit_code or 0, process.read_log(), explain_log)


def _reachable(host: str, port: int) -> str:
    """Return an address that a local client can connect to, also where the server listens on all."""
    return str(Endpoint(host=_WILDCARDS.get(host, host), port=port))


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # a full disk under the log, or a terminal that was closed
        print(f"clipsr-serve: {message}", file=sys.stderr, flush=True)
