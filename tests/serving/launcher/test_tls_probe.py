"""Is a gateway behind TLS alive: asked over a real gRPC server, with certificates made for the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent import futures
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import trustme

from clipsr_serving.launcher._triton.probe import is_gateway_alive
from clipsr_serving.launcher._triton.tls import TlsFiles

SERVER = """
import sys, grpc
from concurrent import futures
class Health(grpc.GenericRpcHandler):
    def service(self, details):
        answer = lambda request, context: b"\\x08\\x02"
        return grpc.unary_unary_rpc_method_handler(answer) if details.method.endswith("Health/Check") else None
server = grpc.server(futures.ThreadPoolExecutor(2))
server.add_generic_rpc_handlers((Health(),))
certificate, key = (open(path, "rb").read() for path in sys.argv[1:3])
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def write(folder: Path, leaf: trustme.LeafCert) -> TlsFiles:
    files = TlsFiles(certificate=folder / "server.pem", key=folder / "server.key")
    leaf.private_key_pem.write_to_path(files.key)
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    return files


@pytest.fixture
def serve():
    """Starts gRPC servers in this process, whose handlers a test may hold up."""
    servers: list[grpc.Server] = []

    def start(files: TlsFiles, *, client_ca: bytes | None = None, hold: threading.Event | None = None) -> str:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if hold is not None:
                hold.wait(60)
            return b"\x08\x02"

        class Health(grpc.GenericRpcHandler):
            def service(self, details):
                return grpc.unary_unary_rpc_method_handler(answer)

        server = grpc.server(futures.ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((Health(),))
        credentials = grpc.ssl_server_credentials(
            [(files.key.read_bytes(), files.certificate.read_bytes())],
            root_certificates=client_ca,
            require_client_auth=client_ca is not None,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def test_one_that_answers_is_alive_whatever_its_certificate_says(serve, authority, tmp_path):
    files = write(tmp_path, authority.issue_cert("elsewhere.example"))
    address = serve(files)
    assert is_gateway_alive(address, timeout_s=60, tls=files)
    files.certificate.write_text("half of a certif")  # being replaced
    assert is_gateway_alive(address, timeout_s=60, tls=files)


def test_one_that_shakes_hands_and_does_not_answer_is_not(serve, authority, tmp_path):
    files, hold = write(tmp_path, authority.issue_cert("localhost")), threading.Event()
    address = serve(files, hold=hold)
    assert not is_gateway_alive(address, timeout_s=1, tls=files)
    hold.set()
    assert is_gateway_alive(address, timeout_s=60, tls=files)


def test_one_that_asks_for_certificates_is_shown_its_own_or_refuses(serve, authority, tmp_path):
    files = write(tmp_path, authority.issue_cert("localhost"))
    address = serve(files, client_ca=authority.cert_pem.bytes())
    assert is_gateway_alive(address, timeout_s=60, tls=files)
    address = serve(files, client_ca=trustme.CA().cert_pem.bytes())
    assert is_gateway_alive(address, timeout_s=60, tls=replace(files, has_client_ca=True))
    assert not is_gateway_alive(address, timeout_s=60, tls=files)  # nobody said that it would refuse
    assert not is_gateway_alive("127.0.0.1:1", timeout_s=60, tls=replace(files, has_client_ca=True))


def test_one_that_is_stopped_is_not_alive(authority, tmp_path):
    files = write(tmp_path, authority.issue_cert("localhost"))
    command = [sys.executable, "-c", SERVER, str(files.certificate), str(files.key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = f"127.0.0.1:{server.stdout.readline().strip()}"
            assert is_gateway_alive(address, timeout_s=60, tls=files)
            os.kill(server.pid, signal.SIGSTOP)
            assert not is_gateway_alive(address, timeout_s=1, tls=files)
        finally:
            server.kill()
    assert not is_gateway_alive(address, timeout_s=60, tls=files)


def test_something_else_is_not_alive(authority, tmp_path):
    files = write(tmp_path, authority.issue_cert("localhost"))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        assert not is_gateway_alive(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=60, tls=files)
        thread.join()
