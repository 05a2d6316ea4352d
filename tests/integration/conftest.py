"""A real Triton and a real gateway, started once by the launcher as a user would."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipsr import Client

_FREE_PORTS = ["--listen", "127.0.0.1:0"]
_FREE_PORTS += [word for kind in ("http", "grpc", "metrics") for word in (f"--triton-{kind}-port", "0")]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service.

    Attributes:
        url: HOST:PORT of the gateway.
        triton: HOST:PORT of Triton's endpoints by name: http, grpc, metrics.
        bin: folder of the commands.
        state_dir: the launcher's folder.
    """

    url: str
    triton: dict[str, str]
    bin: Path
    state_dir: Path

    def counter(self, name: str) -> float:
        """Return one of Triton's counters, summed over its labels."""
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        page = direct.open(f"http://{self.triton['metrics']}/metrics", timeout=10).read().decode()
        lines = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", page, flags=re.MULTILINE)
        assert lines, f"Triton's metrics have no {name}"
        return sum(map(float, lines))

    def cli(self, *arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        """Run clipsr-client against the service."""
        command = [self.bin / "clipsr-client", *map(str, arguments), "--url", self.url]
        completed = subprocess.run(command, capture_output=True, input=stdin, timeout=120, check=False)
        output = (stream.decode() for stream in (completed.stdout, completed.stderr))
        return subprocess.CompletedProcess(completed.args, completed.returncode, *output)


def serve(serve_bin: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run clipsr-serve."""
    command = [serve_bin / "clipsr-serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@contextmanager
def running(serve_bin: Path, repository: Path, state_dir: Path, *flags: object) -> Iterator[Service]:
    """A service of one's own on free ports; `flags` are those of `clipsr-serve up`."""
    where = ("--state-dir", state_dir, "--repository", repository)
    up = serve(serve_bin, "up", "--detach", *where, *_FREE_PORTS, *flags)
    assert up.returncode == 0, up.stdout + up.stderr
    status = json.loads(serve(serve_bin, "status", "--state-dir", state_dir, "--json").stdout)
    yield Service(url=status["url"], triton=status["triton"], bin=serve_bin, state_dir=state_dir)
    down = serve(serve_bin, "down", "--state-dir", state_dir)
    assert down.returncode == 0, down.stdout + down.stderr


@pytest.fixture(scope="session")
def service(serve_bin, repo_root, tmp_path_factory) -> Iterator[Service]:
    """The service on free ports until the session ends; in fp32, so that tests may compare it with PyTorch."""
    flags = ("--profile", "cpu-onnx")
    with running(serve_bin, repo_root / "model_repository", tmp_path_factory.mktemp("service"), *flags) as started:
        yield started


@pytest.fixture
def client(service) -> Iterator[Client]:
    """A client of the service."""
    with Client(service.url, timeout_s=60) as connected:
        yield connected


@pytest.fixture(autouse=True)
def _still_healthy(service) -> Iterator[None]:
    """Whatever a test does to the service, it serves afterwards."""
    yield
    with Client(service.url) as connected:
        assert connected.health() == "SERVING"
