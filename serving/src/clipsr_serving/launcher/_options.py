"""What the command line asks for, as checked values."""

from __future__ import annotations

import errno
import random
import socket
from dataclasses import dataclass, field
from pathlib import Path

from clipsr_serving.errors import LaunchError
from clipsr_serving.launcher._supervisor.probes import ProbePolicy
from clipsr_serving.launcher._supervisor.restarts import RestartPolicy
from clipsr_serving.launcher._triton.tls import TlsFiles

_GATEWAY_GRACE_S = 20.0  # clipsr-gateway --grace, its default; that of --shutdown-delay is 0
_PICKED_PORTS = range(10_000, 30_000)
"""Below those that Linux gives to connections by itself: it could give away one that a server restarts on."""

_OWN_GATEWAY_OPTIONS = {
    "--listen": "give --listen before the `--`",
    "--triton": "it is the Triton that clipsr-serve starts",
    "--repository": "give --repository before the `--`",
    "--library-uri": "give --library-uri before the `--`",
}


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An address to listen on; port 0 picks a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """HOST:PORT, brackets around IPv6."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The ports in use, none of them 0; None without a gateway, and without Triton's HTTP."""

    gateway: int | None
    triton_http: int | None
    triton_grpc: int
    triton_metrics: int


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    """Options of `clipsr-serve up`.

    Attributes:
        repository: the model repository.
        listen: where the gateway listens.
        triton: `auto`, `embedded`, `path` or `docker`.
        triton_path: the tritonserver executable for `path`; None searches PATH.
        triton_address: the address of Triton's inference ports.
        triton_metrics_address: the address of its metrics port; None for the same.
        triton_http_port, triton_grpc_port, triton_metrics_port: 0 picks a free one; None, for HTTP only, closes it.
        profile: configs/NAME.pbtxt is used where a model has it; None for config.pbtxt. See `_profiles`.
        has_gateway: False serves Triton's own ports only.
        timeout_s: how long to wait until the service answers.
        restart: what happens when a process ends after the service was ready.
        probe: how a process that hangs is found.
        gateway_options: further options of clipsr-gateway, as on its command line.
        triton_options: further options of tritonserver, as on its command line.
        processes: `auto`, `shared` (one process of the embedded Triton does all that is done to an image) or `separate`
            (a process for each model).
        library_uri: where the gateway keeps image libraries, a folder or an object store; None: nowhere.
        verbose: repeat the logs of both processes on stderr.
    """

    repository: Path
    listen: Endpoint
    triton: str
    triton_path: Path | None
    triton_address: str
    triton_http_port: int | None
    triton_grpc_port: int
    triton_metrics_port: int
    profile: str | None
    has_gateway: bool
    timeout_s: float
    verbose: bool
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    probe: ProbePolicy = field(default_factory=ProbePolicy)
    gateway_options: tuple[str, ...] = ()
    triton_options: tuple[str, ...] = ()
    triton_metrics_address: str | None = None
    library_uri: str | None = None
    processes: str = "auto"

    def __post_init__(self) -> None:
        """Refuse options that would contradict the launcher's own.

        Raises:
            LaunchError: naming the option.
        """
        for option in self.gateway_options:
            name = option.partition("=")[0]
            if name in _OWN_GATEWAY_OPTIONS:
                raise LaunchError(f"{name} of the gateway is set by clipsr-serve; {_OWN_GATEWAY_OPTIONS[name]}.")
        if self.has_tls and self._find_gateway_option("--log-level") in ("warning", "error"):
            raise LaunchError(
                "clipsr-serve reads in the log of a gateway with TLS whether it serves; use --log-level info or debug."
            )
        if self.gateway_options and not self.has_gateway:
            raise LaunchError("--no-gateway leaves nobody for the options after `--`; leave out one of them.")

    @property
    def metrics_address(self) -> str:
        """Where Triton's metrics port listens."""
        return self.triton_metrics_address or self.triton_address

    @property
    def has_tls(self) -> bool:
        """True if the gateway speaks TLS only."""
        return self._find_gateway_option("--tls-cert") is not None

    @property
    def gateway_tls(self) -> TlsFiles | None:
        """The gateway's certificate and key; None without TLS."""
        certificate, key = (self._find_gateway_option(name) for name in ("--tls-cert", "--tls-key"))
        if not (certificate and key):
            return None
        has_client_ca = self._find_gateway_option("--tls-client-ca") is not None
        return TlsFiles(certificate=Path(certificate), key=Path(key), has_client_ca=has_client_ca)

    @property
    def gateway_stop_s(self) -> float:
        """How long the gateway may serve on, and take for its calls in flight, when it is told to stop, in seconds."""
        delay_s, grace_s = (self._find_gateway_option(name) for name in ("--shutdown-delay", "--grace"))
        try:
            return float(delay_s or 0) + float(grace_s or _GATEWAY_GRACE_S)
        except ValueError:  # the gateway itself says what is wrong with it
            return _GATEWAY_GRACE_S

    def _find_gateway_option(self, name: str) -> str | None:
        """Return the value of `--name value` or `--name=value`; None if it is not there."""
        for index, option in enumerate(self.gateway_options):
            key, separator, value = option.partition("=")
            if key == name:
                return value if separator else "".join(self.gateway_options[index + 1 : index + 2])
        return None


def parse_endpoint(text: str) -> Endpoint:
    """Read HOST:PORT.

    Raises:
        ValueError: it is not of that form.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:50051")
    return Endpoint(host=host.strip("[]"), port=int(port))


def claim_ports(options: UpOptions) -> Ports:
    """Check that the ports are free, and pick free ones for 0.

    The check closes its sockets again, so that another process can still be faster; then Triton's own error says so.

    Raises:
        LaunchError: a port is taken; the text names the flag that changes it.
    """
    sockets: list[socket.socket] = []
    try:
        gateway = None
        if options.has_gateway:
            gateway = _claim(sockets, options.listen.host, options.listen.port, "--listen HOST:PORT")
        http, grpc, metrics = (
            None if port is None else _claim(sockets, address, port, f"--triton-{name}-port PORT")
            for name, address, port in (
                ("http", options.triton_address, options.triton_http_port),
                ("grpc", options.triton_address, options.triton_grpc_port),
                ("metrics", options.metrics_address, options.triton_metrics_port),
            )
        )
        assert grpc is not None
        assert metrics is not None
        return Ports(gateway=gateway, triton_http=http, triton_grpc=grpc, triton_metrics=metrics)
    finally:
        for held in sockets:
            held.close()


def _claim(sockets: list[socket.socket], host: str, port: int, flag: str) -> int:
    try:
        held = _listen(host, port) if port else _listen_anywhere(host)
    except OSError as error:
        raise LaunchError(
            f"Port {port} of {host} cannot be used ({error.strerror}); stop what uses it, "
            f"or choose another with {flag}."
        ) from error
    sockets.append(held)
    return int(held.getsockname()[1])


def _listen_anywhere(host: str) -> socket.socket:
    for port in random.SystemRandom().sample(_PICKED_PORTS, k=20):
        try:
            return _listen(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _listen(host, 0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # As the servers do: a connection that lingers after a restart does not count as taken.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        # Bound is not enough: two sockets with SO_REUSEADDR may bind, only one may listen.
        listening.listen(1)
    except OSError:
        listening.close()
        raise
    return listening
