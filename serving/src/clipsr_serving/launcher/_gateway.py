"""Starts the gateway, and finds out whether it serves."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from clipsr_serving.launcher._options import Endpoint, UpOptions, parse_endpoint
from clipsr_serving.launcher._triton.probe import find_executable, is_gateway_serving

_BLOCK_BYTES = 64 * 1024
_CONNECT_TIMEOUT_S = 5
_GUARDS = ("api-keys", "tls-cert", "tls-key", "tls-client-ca")
_LIBRARY_FOLDER = "libraries"
_LIBRARY_PACKAGE = "lancedb"  # of clipsr-gateway[library]; looked for, never imported here


def find_gateway() -> Path:
    """Find clipsr-gateway.

    Raises:
        LaunchError: it is not installed.
    """
    return find_executable("clipsr-gateway", "clipsr-gateway")


def make_gateway_argv(gateway: Path, options: UpOptions, *, listen: Endpoint, triton: str) -> tuple[str, ...]:
    """Return the command that starts it; the user's own options come last."""
    own = ("--listen", str(listen), "--triton", triton, "--repository", str(options.repository))
    libraries = () if options.library_uri is None else ("--library-uri", options.library_uri)
    return (str(gateway), *own, *libraries, *options.gateway_options)


def find_guard_options(given: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the gateway's options for keys and TLS that the environment has and nobody gave.

    Files of containers add variables up, where each replaces the command of the one before.
    """
    names = {option.partition("=")[0] for option in given}
    found = {f"--{name}": environment.get(f"CLIPSR_{name.replace('-', '_').upper()}") for name in _GUARDS}
    return tuple(f"{option}={file}" for option, file in found.items() if file and option not in names)


def find_library_uri(chosen: str | None, *, state_dir: Path) -> str | None:
    """Where the gateway keeps image libraries: as chosen, else below the state folder; None for `off`.

    A gateway without its extra `[library]` keeps none unless asked to, and then says what it lacks.
    """
    if chosen is not None:
        return None if chosen == "off" else chosen
    return str(state_dir / _LIBRARY_FOLDER) if importlib.util.find_spec(_LIBRARY_PACKAGE) else None


def make_gateway_check(options: UpOptions, *, url: str, log: Path) -> Callable[[], bool]:
    """Return the question whether it serves.

    With TLS this process has no certificate that the gateway would have to accept, and believes the log.
    """
    if options.has_tls:
        return lambda: read_gateway_health(log) == "SERVING" and _accepts_connections(url)
    return lambda: is_gateway_serving(url)


def read_gateway_health(log: Path) -> str | None:
    """Return the last status in the gateway's log, `SERVING` or `NOT_SERVING`; None if it has none yet.

    Reads backwards, because a log may hold the lines of many requests.
    """
    with contextlib.suppress(OSError):  # not begun yet, or taken away by a rotation
        for line in _read_lines_backwards(log):
            # Cheaper than to parse the line of every request.
            if b'"health"' in line:
                with contextlib.suppress(ValueError):
                    entry = json.loads(line)
                    if isinstance(entry, dict) and entry.get("event") == "health":
                        return str(entry.get("status"))
    return None


def _read_lines_backwards(log: Path) -> Iterator[bytes]:
    with log.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while position > 0:
            size = min(_BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            first, *lines = (file.read(size) + rest).split(b"\n")
            yield from reversed(lines)
            rest = first
        yield rest


def _accepts_connections(url: str) -> bool:
    endpoint = parse_endpoint(url)
    try:
        socket.create_connection((endpoint.host, endpoint.port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True
