"""Ports for tests that need one before they listen on it, or that need nobody to listen."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

__all__ = ["hold_port"]


@contextlib.contextmanager
def hold_port(port: int = 0) -> Iterator[int]:
    """Keeps a port of this machine from being given to others; yields it.

    Nobody listens there, so that connections are refused, until a gRPC server of this very user does.

    Args:
        port: the port to hold, which such a server may be listening on; 0 takes a free one.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as gRPC's servers do
        held.bind(("127.0.0.1", port))
        yield held.getsockname()[1]
