"""Addresses of options: HOST:PORT."""

from __future__ import annotations

from clipsr_gateway.errors import ConfigurationError

_MAX_PORT = 65_535


def parse_address(option: str, text: str, *, example: str = "127.0.0.1:50051") -> tuple[str, int]:
    """Return host and port.

    Args:
        option: what the address belongs to, for the error.
        text: HOST:PORT.
        example: a sensible value, for the error.

    Raises:
        ConfigurationError: it is not HOST:PORT.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise ConfigurationError(f"{option} must be HOST:PORT, for example {example}; it is {text!r}.")
    return host, int(port)
