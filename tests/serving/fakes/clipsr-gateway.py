"""A fake clipsr-gateway: says SERVING in its log and, without TLS, over gRPC."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
from journal import note, read_mode


def stop(number: int, frame: object) -> None:
    note("gateway stops")
    os._exit(0)


class Handler(grpc.GenericRpcHandler):
    """Answers health checks."""

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        assert call.method == "/grpc.health.v1.Health/Check"
        status = 2 if read_mode("gateway") == "not serving" else 1
        return grpc.unary_unary_rpc_method_handler(lambda request, context: bytes([0x08, status]))


signal.signal(signal.SIGTERM, stop)
note("gateway starts " + " ".join(sys.argv[1:]))
note(f"no_proxy {os.environ.get('no_proxy')}")
if read_mode("gateway") == "dies":
    sys.exit("clipsr-gateway: no manifest")
address = sys.argv[sys.argv.index("--listen") + 1]
if "--tls-cert" in sys.argv:
    host, _, port = address.rpartition(":")
    listening = socket.create_server((host, int(port)))
else:
    server = grpc.server(ThreadPoolExecutor(8), handlers=[Handler()])
    server.add_insecure_port(address)
    server.start()
for word in ("NOT_SERVING", "SERVING"):
    print(json.dumps({"event": "health", "status": word}), file=sys.stderr, flush=True)
while True:
    signal.pause()
