"""Asks a gateway behind TLS for its health, by hand: gRPC's own client cannot connect to a certificate that it rejects.

A certificate that has expired, or names another host, is no reason to restart the gateway that shows it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# RFC 9113, sections 3.4, 4.1, 6.1, 6.2 and 6.5.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_STREAM = 1
_FRAME_HEAD = struct.Struct(">HBBBI")

# RFC 7541: entries of the static table (appendix A), and literals that nobody remembers (section 6.2.2).
_METHOD_POST, _SCHEME_HTTPS, _AUTHORITY, _PATH = b"\x83", b"\x87", b"\x01", b"\x04"


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """The gateway's own files, which this process shows as its certificate where one is asked for.

    Attributes:
        certificate: of the gateway.
        key: its private key.
        has_client_ca: whether callers must show a certificate, of an authority that need not have signed this one.
    """

    certificate: Path
    key: Path
    has_client_ca: bool = False


def is_answering(address: str, method: str, files: TlsFiles, *, timeout_s: float) -> bool:
    """Return True if a gRPC method answers an empty message, with whatever status.

    A gateway that asks for certificates of another authority refuses this process. Its refusal is an answer, too.

    Args:
        address: HOST:PORT.
        method: such as /grpc.health.v1.Health/Check.
        files: of the gateway.
        timeout_s: for all of it.
    """
    ends_s = time.monotonic() + timeout_s
    try:
        with _connect(address, files, timeout_s) as connection:
            connection.sendall(_make_request(method))
            if any(kind == _HEADERS and stream == _STREAM for kind, stream in _read_frames(connection, ends_s)):
                return True
    except (TimeoutError, ConnectionRefusedError):
        return False
    except OSError:  # ssl's errors as well
        pass
    return files.has_client_ca


@contextlib.contextmanager
def _connect(address: str, files: TlsFiles, timeout_s: float) -> Iterator[ssl.SSLSocket]:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with contextlib.suppress(OSError):  # the files are just being replaced
        context.load_cert_chain(files.certificate, files.key)
    with (
        socket.create_connection((host.strip("[]"), int(port)), timeout_s) as plain,
        context.wrap_socket(plain) as connection,
    ):
        yield connection


def _make_request(method: str) -> bytes:
    fields = _METHOD_POST + _SCHEME_HTTPS + _AUTHORITY + _text(b"localhost") + _PATH + _text(method.encode())
    for name, value in ((b"te", b"trailers"), (b"content-type", b"application/grpc")):
        fields += b"\x00" + _text(name) + _text(value)
    message = bytes(5)  # not compressed, no bytes
    headers, data = _frame(_HEADERS, _END_HEADERS, _STREAM, fields), _frame(_DATA, _END_STREAM, _STREAM, message)
    return _PREFACE + _frame(_SETTINGS, 0, 0, b"") + headers + data


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME_HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _read_frames(connection: ssl.SSLSocket, ends_s: float) -> Iterator[tuple[int, int]]:
    """Yield kind and stream of each frame until the connection ends.

    Raises:
        TimeoutError: `ends_s` has come.
    """
    buffer = b""
    while True:
        while len(buffer) >= _FRAME_HEAD.size:
            high, low, kind, _, stream = _FRAME_HEAD.unpack_from(buffer)
            size = _FRAME_HEAD.size + (high << 8 | low)
            if len(buffer) < size:
                break
            buffer = buffer[size:]
            yield kind, stream
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        received = connection.recv(65_536)
        if not received:
            return
        buffer += received
