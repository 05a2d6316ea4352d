"""Addresses and the options of a channel."""

from __future__ import annotations

import ipaddress
import json

from clipsr._codecs.arguments import as_text, invalid

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:")  # gRPC's own names of resolvers

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # Every address behind a name gets its share; gRPC's default is to stay with the first one that answers.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    # gRPC would have all channels of a process share a connection, and with it the pause after a failed attempt: a new
    # client would say of a service that is up again that nobody answers there.
    ("grpc.use_local_subchannel_pool", 1),
    # Requests are cut to the service's limit before they are sent, and the caller's own top_k and labels decide how
    # large an answer is; gRPC's default of 4 MiB would refuse answers that the service was right to send.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Finds a service that vanished while a call waits for it; the gateway allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # After a lost connection the first attempt of a retried call finds a new one; gRPC's default is a second.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # The default of two minutes would keep a client from noticing for long that the service is back.
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def make_target(url: str) -> str:
    """Return the gRPC target for HOST:PORT; a host name is resolved again whenever its addresses may have changed.

    Raises:
        InvalidRequestError: `url` is not HOST:PORT, nor a target of one of gRPC's own schemes.
    """
    if as_text("url", url).startswith(_SCHEMES):
        return url
    host, port = _split(url)
    address = _ip_address(host)
    if address is None:
        return f"dns:///{host}:{port}"
    return f"ipv6:[{host}]:{port}" if address.version == 6 else f"ipv4:{host}:{port}"


def channel_options(url: str) -> list[tuple[str, int | str]]:
    """Return the options of a channel to `url`."""
    if is_local(url):
        # gRPC would hand even calls to this very machine to the proxy that the environment names.
        return [*_OPTIONS, ("grpc.enable_http_proxy", 0)]
    return list(_OPTIONS)


def is_local(url: str) -> bool:
    """Return whether what is sent to `url` stays on this machine."""
    if not as_text("url", url).startswith(_SCHEMES):
        return _is_loopback(_split(url)[0])
    scheme, _, rest = url.partition(":")
    # dns:[//resolver/]host[:port] or ipv4:address:port[,address:port…]
    parts = rest.rpartition("/")[2].split(",")
    hosts = (part if part.endswith("]") else part.rpartition(":")[0] or part for part in parts)
    return scheme.startswith("unix") or all(_is_loopback(host.strip("[]")) for host in hosts)


def _split(url: str) -> tuple[str, int]:
    host, colon, port = url.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if is_bracketed:
        host = host[1:-1]
    is_plain = host != "" and "/" not in host and (is_bracketed or ":" not in host) and not host.isspace()
    if not colon or not is_plain or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        message = (
            f"The address {url!r} cannot be used; give HOST:PORT without a scheme, such as localhost:50051 or "
            f"[::1]:50051."
        )
        raise invalid("url", message)
    return host, int(port)


def _is_loopback(host: str) -> bool:
    address = _ip_address(host)
    if address is None:
        return host.lower().rstrip(".") == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
