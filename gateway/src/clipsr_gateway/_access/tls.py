"""TLS: certificates that are read again when their files change, and callers that must show one."""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from clipsr_gateway._logs import log_event
from clipsr_gateway.errors import CertificateError, ConfigurationError


@dataclass(frozen=True, kw_only=True)
class TlsConfig:
    """Files in PEM.

    Attributes:
        certificate: the server's certificate, then those between it and the authority.
        key: its private key, not encrypted.
        client_ca: authorities of the callers' certificates; None lets callers without a certificate in.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


def server_credentials(config: TlsConfig) -> grpc.ServerCredentials:
    """Return credentials that look at the files before each new connection.

    Files that are wrong later on are logged, and the last right ones stay in force. Connections that are open keep the
    certificate that they began with; the server's maximum connection age bounds for how long.

    Raises:
        CertificateError: the files are wrong now.
    """
    files = _CertificateFiles(config)
    return grpc.dynamic_ssl_server_credentials(
        files.read(), files.read_if_changed, require_client_authentication=config.client_ca is not None
    )


class _CertificateFiles:
    """Reads the files; gRPC asks from threads of its own."""

    def __init__(self, config: TlsConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._seen = self._fingerprint()

    def read(self) -> Any:
        """Return gRPC's configuration of what the files hold.

        Raises:
            CertificateError: naming the file.
        """
        config = self._config
        _check(config)
        chain, key = config.certificate.read_bytes(), config.key.read_bytes()
        roots = None if config.client_ca is None else config.client_ca.read_bytes()
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=roots)

    def read_if_changed(self) -> Any:
        """Return the same, or None where nothing changed or what changed is wrong."""
        with self._lock:
            fingerprint = self._fingerprint()
            if fingerprint == self._seen:
                return None
            self._seen = fingerprint
            try:
                configuration = self.read()
            except (CertificateError, OSError) as error:
                log_event("certificate_rejected", {"cause": str(error)}, level=logging.ERROR)
                return None
            log_event("certificate_loaded", {"path": str(self._config.certificate)})
            return configuration

    def _fingerprint(self) -> list[tuple[int, int, int] | None]:
        paths = (self._config.certificate, self._config.key, self._config.client_ca)
        return [_stat(path) for path in paths if path is not None]


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _check(config: TlsConfig) -> None:
    """Load the files once with Python's own TLS: gRPC finds out only when somebody connects, and do not say so."""
    for path in (config.certificate, config.key, config.client_ca):
        if path is not None:
            try:
                path.read_bytes()
            except OSError as cause:
                raise CertificateError(path, f"cannot be read: {cause.strerror}.") from cause
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.certificate, config.key, password=_refuse_password)
    except (ssl.SSLError, ConfigurationError) as cause:
        raise CertificateError(
            config.certificate,
            f"is not a PEM certificate of the unencrypted private key {config.key}; give both of one pair.",
        ) from cause
    if config.client_ca is not None:
        try:
            context.load_verify_locations(config.client_ca)
        except ssl.SSLError as cause:
            raise CertificateError(config.client_ca, "holds no PEM certificate of an authority.") from cause


def _refuse_password() -> str:
    raise ConfigurationError("encrypted keys are not supported")  # without this, OpenSSL would ask on the terminal
