"""Starts, pauses and stops the systems that are compared, each in processes of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from benchmarks.load import Target
from benchmarks.load.processes import tree

__all__ = [
    "BareSystem",
    "Folders",
    "Server",
    "StartError",
    "clipsr",
    "fastembed",
    "infinity",
    "litserve",
    "onnx_int8",
    "openclip",
]

_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 300.0
_STATUS_TIMEOUT_S = 60.0
# `clipsr-serve down` gives up by itself before that.
_STOP_TIMEOUT_S = 120.0
# Of a bare engine, besides the seconds it is asked to work: loading, compiling, and PyTorch's embedding of new labels.
_ANSWER_TIMEOUT_S = 900.0
# The baselines queue whatever comes. So must the service here; how it refuses is what benchmarks.reliability measures.
_QUEUE_EVERYTHING = ("--max-slowdown", "100000")


class StartError(RuntimeError):
    """A system did not start, or failed; the message says where its log is."""


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where things are.

    Attributes:
        weights: written by `benchmarks.baselines.weights`.
        repository: model repository exported from those weights.
        environments: virtual environments of the baselines, by name.
        serve_bin: `bin` of the service's environment.
        logs: for the logs of all systems.
        model: OpenCLIP's name of the model.
        device: of the baselines, `cpu` or `cuda`.
    """

    weights: Path
    repository: Path
    environments: Path
    serve_bin: Path
    logs: Path
    model: str = "ViT-B-32"
    device: str = "cpu"

    def labels(self) -> tuple[str, ...]:
        """Return the labels that all systems hold."""
        return tuple(json.loads((self.weights / "labels.json").read_text(encoding="utf-8")))


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server.

    Attributes:
        name: as the tables print it.
        target: how to ask it.
        pids: its processes; their descendants belong to it.
        can_pause: whether it may be stopped by SIGSTOP while another one works.
        pages: addresses of pages to read, by name: `triton`, `metrics` (Triton's, too) and `gateway` of the service.
        start_s: seconds from the start until it answered.
    """

    name: str
    target: Target
    pids: tuple[int, ...]
    can_pause: bool
    start_s: float
    pages: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Let it work within the context, and rest outside of it if it can."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def pause(self) -> None:
        """Stop its processes."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.can_pause:
            for process in tree(self.pids).values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)


@contextmanager
def clipsr(
    folders: Folders,
    *,
    profile: str | None,
    name: str = "clipsr",
    route: Any = "upscaled",
    repository: Path | None = None,
    max_concurrent: int | None = None,
) -> Iterator[Server]:
    """Return the service, from `clipsr-serve up`; `max_concurrent` is the gateway's, None for its own.

    It isn't paused: Triton and the gateway watch each other, and would take a pause for a fault. Idle it takes next to
    nothing; the record holds how much.

    Raises:
        StartError: it does not start.
    """
    state, metrics = folders.logs / f"{name}-state".replace(" ", "-"), free_port()
    launcher = str(folders.serve_bin / "clipsr-serve")
    ports = [word for kind in ("http", "grpc", "metrics") for word in (f"--triton-{kind}-port", "0")]
    command = [launcher, "up", "--detach", "--state-dir", str(state), "--listen", "127.0.0.1:0", *ports]
    command += ["--repository", str(repository or folders.repository), *(("--profile", profile) if profile else ())]
    command += ["--", "--metrics", f"127.0.0.1:{metrics}", *_QUEUE_EVERYTHING]
    command += ["--max-concurrent", str(max_concurrent)] if max_concurrent else []
    begin = time.monotonic()
    try:
        up = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_ROOT)
        if up.returncode != 0:
            raise StartError(f"{name} did not start: {(up.stdout + up.stderr).strip()}; its logs are in {state}")
        start_s = time.monotonic() - begin
        status = _status(launcher, state)
        yield Server(
            name=name,
            target=Target(kind="grpc", url=status["url"], labels=folders.labels(), route=route),
            pids=(int(status["pid"]),),
            can_pause=False,
            start_s=start_s,
            pages={
                "triton": f"http://{status['triton']['http']}/v2/models/stats",
                "gateway": f"http://127.0.0.1:{metrics}/metrics",
                "metrics": f"http://{status['triton']['metrics']}/metrics",
            },
        )
    finally:
        down = [launcher, "down", "--state-dir", str(state)]
        stopped = subprocess.run(down, capture_output=True, text=True, check=False, timeout=_STOP_TIMEOUT_S)
        if stopped.returncode != 0:
            print(f"{name} was not stopped: {stopped.stderr.strip()}", file=sys.stderr, flush=True)


def _status(launcher: str, state: Path) -> dict[str, Any]:
    """Return what runs, as `clipsr-serve status` has it.

    Raises:
        StartError: nothing does.
    """
    command = [launcher, "status", "--ready", "--json", "--state-dir", str(state)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_STATUS_TIMEOUT_S)
    if answer.returncode != 0:
        raise StartError(f"clipsr-serve is not ready after its start; its logs are in {state}")
    return json.loads(answer.stdout)


@contextmanager
def openclip(folders: Folders) -> Iterator[Server]:
    """open_clip behind FastAPI."""
    with _fastapi("FastAPI + open_clip", "openclip", folders) as s:
        yield s


@contextmanager
def onnx_int8(folders: Folders) -> Iterator[Server]:
    """ONNX Runtime in int8 behind FastAPI."""
    with _fastapi("FastAPI + onnxruntime int8", "onnx_int8", folders) as s:
        yield s


@contextmanager
def fastembed(folders: Folders) -> Iterator[Server]:
    """Qdrant's FastEmbed behind FastAPI."""
    with _fastapi("FastAPI + FastEmbed", "fastembed", folders) as s:
        yield s


@contextmanager
def litserve(folders: Folders) -> Iterator[Server]:
    """LitServe with batches."""
    port = free_port()
    words = ["-m", "benchmarks.baselines.litserve.server", f"127.0.0.1:{port}"]
    target = Target(kind="json-base64", url=f"http://127.0.0.1:{port}/classify")
    with _http_server("LitServe", "litserve", words, folders, target, f"http://127.0.0.1:{port}/health") as s:
        yield s


@contextmanager
def infinity(folders: Folders) -> Iterator[Server]:
    """Michael Feil's infinity with its torch engine."""
    port = free_port()
    model = str(folders.weights / "transformers")
    words = [
        str(folders.environments / "infinity" / "bin" / "infinity_emb"),
        "v2",
        "--model-id",
        model,
        "--served-model-name",
        "clip",
        "--engine",
        "torch",
    ]
    words += ["--device", folders.device, "--host", "127.0.0.1", "--port", str(port), "--no-bettertransformer"]
    words += ["--log-level", "warning"]  # a line a call would cost it time; the others write none, too
    target = Target(kind="infinity", url=f"http://127.0.0.1:{port}/embeddings")
    with _http_server("infinity", "infinity", words, folders, target, f"http://127.0.0.1:{port}/health") as s:
        yield s


@contextmanager
def _fastapi(name: str, environment: str, folders: Folders) -> Iterator[Server]:
    port = free_port()
    app = f"benchmarks.baselines.{environment}.server:app"
    words = ["-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    target = Target(kind="multipart", url=f"http://127.0.0.1:{port}/classify")
    with _http_server(name, environment, words, folders, target, f"http://127.0.0.1:{port}/health") as s:
        yield s


@contextmanager
def _http_server(
    name: str, environment: str, words: Sequence[str], folders: Folders, target: Target, health: str
) -> Iterator[Server]:
    python = folders.environments / environment / "bin" / "python"
    if not python.is_file():
        raise StartError(
            f"{name} is not installed: run benchmarks/baselines/install.sh {environment} {python.parents[1]}"
        )
    log = folders.logs / f"{environment}.log"
    variables = {
        "BENCH_MODEL": folders.model,
        "BENCH_WEIGHTS": str(folders.weights.resolve() / "open_clip.safetensors"),
        "BENCH_LABELS": str(folders.weights.resolve() / "labels.json"),
        "BENCH_DEVICE": folders.device,
        # Everything is in the folders; nothing is asked of a hub, nothing is reported to anyone.
        "HF_HUB_OFFLINE": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "DO_NOT_TRACK": "1",
    }
    begin = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python), *words],
            cwd=_ROOT,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(health, process, name, log)
        start_s = time.monotonic() - begin
        yield Server(name=name, target=target, pids=(process.pid,), can_pause=True, start_s=start_s)
    finally:
        # LitServe's own processes outlive it otherwise. SIGKILL ends stopped ones, too.
        children = list(tree([process.pid]).values())
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session that was started above
        for each in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        psutil.wait_procs(children, timeout=_STATUS_TIMEOUT_S)


class BareSystem:
    """The bare engine, `benchmarks.baselines.bare`, in a process of its own that works only when asked.

    Raises:
        StartError: it does not start.
    """

    def __init__(self, folders: Folders, engine: str, *, repository: Path | None = None) -> None:
        self.name = f"bare {engine}"
        words = ["-m", "benchmarks.baselines.bare", "--engine", engine, "--model", folders.model]
        words += ["--repository", str(repository or folders.repository)]
        words += ["--weights", str(folders.weights / "open_clip.safetensors")]
        self._log = folders.logs / f"{self.name.replace(' ', '-')}.log"
        with self._log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *words],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            self._expect(self._read(), "ready")
        except StartError:
            self.close()
            raise

    def ask(self, **order: object) -> dict[str, float]:
        """Send an order, wait for its answer.

        Raises:
            StartError: the process ended.
        """
        stdin: IO[str] = self._process.stdin  # type: ignore[assignment]
        with contextlib.suppress(BrokenPipeError):  # reading says why
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
        return json.loads(self._read())

    def close(self) -> None:
        """End the process."""
        try:
            self._process.communicate(timeout=_STOP_TIMEOUT_S)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()

    def _read(self) -> str:
        stdout: IO[str] = self._process.stdout  # type: ignore[assignment]
        # An answer is a line, and none is under way when an order is sent: nothing waits in a buffer.
        if not select.select([stdout], [], [], _ANSWER_TIMEOUT_S)[0]:
            self._process.kill()
            raise StartError(f"{self.name} did not answer within {_ANSWER_TIMEOUT_S:.0f} s; its log is {self._log}")
        line = stdout.readline().strip()
        if not line:
            log = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise StartError(f"{self.name} ended; {self._log} says: {' '.join(log[-3:])}")
        return line

    def _expect(self, line: str, wanted: str) -> None:
        if line != wanted:
            raise StartError(f"{self.name} said {line!r}; its log is {self._log}")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_page(url: str) -> str:
    """Read a page of this machine, past any proxy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=10) as response:
        return response.read().decode()


def _wait_for(url: str, process: subprocess.Popen[bytes], name: str, log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end:
        if process.poll() is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            raise StartError(f"{name} ended at its start; {log} says: {' '.join(lines[-3:])}")
        try:
            read_page(url)
        except OSError:  # URLError is one
            time.sleep(0.2)
        else:
            return
    raise StartError(f"{name} did not answer within {_START_TIMEOUT_S:.0f} s; its log is {log}")
