"""A fake tritonserver: answers readiness and the canary over gRPC, or misbehaves as ordered."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from journal import JOURNAL, note, read_mode

FLAGS = dict(flag.split("=", 1) for flag in sys.argv[1:] if "=" in flag)
MODE = read_mode("triton")
CRASHED = JOURNAL.with_suffix(".crashed")


def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
    if MODE == "hangs":
        context.abort(grpc.StatusCode.UNAVAILABLE, "loading")
    if method.endswith("ServerReady"):
        return b"\x08\x01"
    assert b"image" in request
    assert b"BYTES" in request
    model = request[2 : 2 + request[1]].decode()
    note(f"infer {model}")
    while read_mode("triton") == "stuck":
        time.sleep(0.02)
    raw = struct.pack("<2f", *([1.5, 0.5] if MODE == "nonsense" else [0.5, 0.5]))
    name = b"probability"
    output = bytes([0x0A, len(name)]) + name
    return bytes([0x2A, len(output)]) + output + bytes([0x32, len(raw)]) + raw


class Handler(grpc.GenericRpcHandler):
    """Every method is one of bytes."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(lambda request, context: answer(call.method, request, context))


def stop(number: int, frame: object) -> None:
    if MODE != "ignores TERM":
        note("triton stops")
        os._exit(0)


def start_stub() -> None:
    """Start a shell under the stub's name, which waits until its parent is gone."""
    command = ["/backends/python/triton_python_backend_stub", "-c", "read line", "similarity_0_0"]
    child = subprocess.Popen(command, executable="/bin/sh", stdin=subprocess.PIPE)
    note(f"stub {child.pid}")


if MODE == "dies":
    reason = r"Internal: ModelLoadError: model 'upscale': no file\n\nAt:\n"
    print(f"""E1 "failed to load 'upscale' version 1: {reason}" """)
    sys.exit(1)
if MODE == "crashes" or (MODE == "crashes once" and not CRASHED.exists()):
    CRASHED.touch()
    note("triton starts")
    print("terminate called after throwing an instance of 'lock_exception'", flush=True)
    os.abort()
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda number, frame: note("triton got SIGINT"))
note("triton starts")
note("flags " + " ".join(sys.argv[1:]))
if "FAKE_STUB" in os.environ:
    start_stub()
server = grpc.server(ThreadPoolExecutor(8), handlers=[Handler()])
server.add_insecure_port(f"127.0.0.1:{FLAGS['--grpc-port']}")
server.start()
while True:
    signal.pause()
