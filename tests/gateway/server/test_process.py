"""The real process: `python -m clipsr_gateway`, its signals, sentences and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clipsr.v1 import classifier_pb2, classifier_pb2_grpc
from clipsr_gateway._access.keys import add_key
from clipsr_gateway.cli import main

START_S = 60.0  # imports on a busy machine


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clipsr_gateway", *options]
    environment = {**os.environ, "GRPC_VERBOSITY": "NONE"}  # as clipsr-serve sets it
    return subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False, env=environment)


@pytest.fixture
def spawn(repository: Path, unused_port: int) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int]]]:
    """Starts a gateway in front of a Triton that is not there, and waits until it listens."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> tuple[subprocess.Popen[bytes], int]:
        command = [sys.executable, "-m", "clipsr_gateway", "--listen", "127.0.0.1:0", "--repository", str(repository)]
        command += ["--metrics", "off"]  # the usual port may be taken by a gateway that runs here
        command += ["--triton", f"127.0.0.1:{unused_port}", *options]
        # Without a buffer: communicate() would not see lines that came together with one that was read.
        process = subprocess.Popen(command, stderr=subprocess.PIPE, bufsize=0)
        processes.append(process)
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        assert line["event"] == "listening"
        return process, int(line["address"].rpartition(":")[2])

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_without_triton_it_says_so_and_stops_when_told(spawn, request_of, png, detailed, signal_number):
    process, port = spawn()
    bomb = png(10_000, 10_000, mode="1")  # Pillow would warn about it on standard error, between the JSON lines
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest(), timeout=START_S)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        began_s = time.perf_counter()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Classify(request_of(png(), bomb), timeout=START_S)
        assert time.perf_counter() - began_s < 10
        error = detailed(caught.value)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert error.reason == "BACKEND_UNAVAILABLE"
        assert "does not answer;" in error.message
        info = stub.GetModelInfo(classifier_pb2.GetModelInfoRequest(), timeout=START_S).model_info
        assert info.name == "clipsr-test"
        check = health.Check(health_pb2.HealthCheckRequest(service="clipsr.v1.ClassifierService"), timeout=START_S)
        assert check.status == health_pb2.HealthCheckResponse.NOT_SERVING
        process.send_signal(signal_number)
        assert list(watched) == []  # the watch ends by itself: nothing changed any more
    _, stderr = process.communicate(timeout=START_S)
    assert process.returncode == 0
    lines = [json.loads(line) for line in stderr.decode().splitlines()]
    events = [line["event"] for line in lines]
    assert events[-2:] == ["stopping", "stopped"]
    assert lines[-1]["drained"] is True
    calls = {line["method"]: line["code"] for line in lines if line["event"] == "call"}
    assert calls == {"Classify": "UNAVAILABLE", "GetModelInfo": "OK"}
    causes = [line["cause"] for line in lines if line["event"] == "health"]
    assert len(causes) == 1
    assert "is not ready" in causes[0]


def test_sighup_reads_the_keys_again_and_nothing_tells_them(spawn, tmp_path):
    path = tmp_path / "keys.json"
    old = add_key(path, "team-a", limits=None)
    process, port = spawn("--api-keys", str(path))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = classifier_pb2_grpc.ClassifierServiceStub(channel)

        def ask(key: str) -> None:
            request = classifier_pb2.GetModelInfoRequest()
            stub.GetModelInfo(request, metadata=[("authorization", f"Bearer {key}")], timeout=START_S)

        ask(old)
        new = add_key(path, "team-a", limits=None, replaces=True)
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        events: list[str] = []
        while "keys_loaded" not in events:
            events.append(json.loads(process.stderr.readline())["event"])
        ask(new)
        with pytest.raises(grpc.RpcError) as caught:
            ask(old)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    process.terminate()
    _, stderr = process.communicate(timeout=START_S)
    assert process.returncode == 0
    assert not any(key.removeprefix("clipsr_") in stderr.decode() for key in (old, new))


def message(stderr: str) -> str:
    """The one line that explains the failure."""
    (line,) = stderr.splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["level"]) == ("failed", "error")
    assert "exception" not in entry
    return entry["message"]


def test_no_manifest(tmp_path):
    result = run("--repository", str(tmp_path))
    assert result.returncode == 2
    assert "manifest.json: no such file" in message(result.stderr)
    assert "make export" in message(result.stderr)


def test_a_taken_port(repository):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = run("--repository", str(repository), "--listen", address)
    assert result.returncode == 1
    assert f"Cannot listen on {address}" in message(result.stderr)


@pytest.mark.parametrize(
    "options",
    [
        ("--listen", "50051"),
        ("--listen", "127.0.0.1:99999"),
        ("--triton", "http://x"),
        ("--max-concurrent", "0"),
        ("--grace", "-1"),
        ("--shutdown-delay", "-1"),
    ],
)
def test_wrong_options(options, capsys):
    assert main(options) == 2
    assert options[0] in message(capsys.readouterr().err)


@pytest.mark.parametrize("options", [("--nope",), ("--log-level", "loud"), ("--max-concurrent", "many")])
def test_unknown_options_are_argparses_business(options, capsys):
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_help_names_every_option_of_the_contract(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--listen", "--triton", "--repository", "--max-concurrent", "--log-level"):
        assert option in shown
