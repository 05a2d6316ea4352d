"""How callers connect: the address, TLS, and an API key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for every channel, as separate callers have
    ("grpc.enable_http_proxy", 0),
    ("grpc.lb_policy_name", "round_robin"),  # as the client library has it, where the address names several servers
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 500),  # a service that restarts is found again soon
]


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a service asks of its callers.

    Attributes:
        api_key: sent as bearer token; empty sends none.
        tls: whether to use TLS; implied by any of the files.
        ca_file: PEM file of trusted authorities; empty trusts those of this machine.
        cert_file, key_file: PEM files of the caller's certificate and its private key.
    """

    api_key: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def metadata(self) -> list[tuple[str, str]]:
        """Return the metadata that every call carries."""
        return [("authorization", f"Bearer {self.api_key}")] if self.api_key else []

    def open_channel(self, url: str) -> grpc.aio.Channel:
        """Open a channel with a connection of its own.

        Args:
            url: HOST:PORT, or ipv4:HOST:PORT,HOST:PORT for several servers in turn.

        Raises:
            OSError: a PEM file cannot be read.
        """
        if not (self.tls or self.ca_file or self.cert_file):
            return grpc.aio.insecure_channel(url, _OPTIONS)
        authorities, key, certificate = (
            Path(name).read_bytes() if name else None for name in (self.ca_file, self.key_file, self.cert_file)
        )
        return grpc.aio.secure_channel(url, grpc.ssl_channel_credentials(authorities, key, certificate), _OPTIONS)
