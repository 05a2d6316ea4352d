"""How a client proves who it is and whom it believes: TLS, certificates and the API key."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from clipsr._codecs.arguments import as_flag
from clipsr._errors import InvalidRequestError
from clipsr._rpc.channel import is_local
from clipsr._rpc.tracing import trace_metadata

FilePath = str | os.PathLike[str]

# What a Bearer token may hold (RFC 6750, section 2.1), and what gRPC metadata carries as text.
_API_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """What a channel and its calls need to be let in.

    Attributes:
        credentials: of the channel; None for a connection without TLS.
        metadata: of every call.
    """

    credentials: grpc.ChannelCredentials | None = None
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # holds the key

    def call_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a call sends that is made now: the same, and the application's trace if it has one."""
        return (*self.metadata, *trace_metadata())


def make_access(
    url: str,
    *,
    tls: bool | FilePath,
    cert_file: FilePath | None,
    key_file: FilePath | None,
    api_key: str | None,
    allow_insecure_key: bool,
) -> Access:
    """Return what the options of a client mean; read the files that they name.

    Raises:
        InvalidRequestError: the options contradict each other, a file cannot be read, or the key would travel
            in the open.
        TypeError: allow_insecure_key is neither True nor False.
    """
    is_insecure = as_flag("allow_insecure_key", allow_insecure_key)
    if (cert_file is None) != (key_file is None):
        raise _invalid("cert_file", "A client certificate takes two files: give both cert_file and key_file.")
    is_tls = tls is not False
    if cert_file is not None and not is_tls:
        raise _invalid("cert_file", "A client certificate needs TLS: give tls=True, or tls=FILE with the CA.")
    credentials = None
    if is_tls:
        credentials = grpc.ssl_channel_credentials(
            root_certificates=None if isinstance(tls, bool) else _read("tls", tls),
            private_key=None if key_file is None else _read("key_file", key_file),
            certificate_chain=None if cert_file is None else _read("cert_file", cert_file),
        )
    return Access(
        credentials=credentials,
        metadata=_authorize(url, api_key, is_protected=is_tls or is_insecure or is_local(url)),
    )


def _authorize(url: str, api_key: str | None, *, is_protected: bool) -> tuple[tuple[str, str], ...]:
    if api_key is None:
        return ()
    if not isinstance(api_key, str):  # pyright: ignore[reportUnnecessaryIsInstance] - of callers without types
        raise TypeError("api_key is no text; give a string, such as key.decode()")
    if not _API_KEY.fullmatch(api_key):  # the sentence does not repeat it
        raise _invalid(
            "api_key", "The API key is empty or holds characters that no key has: check for spaces and quotes."
        )
    if not is_protected:
        message = (
            f"The API key would travel to {url} in the open: use TLS, or, where the network itself is protected, allow "
            f"it by allow_insecure_key."
        )
        raise _invalid("api_key", message)
    return (("authorization", f"Bearer {api_key}"),)


def _read(name: str, path: FilePath) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        message = f"The file {os.fspath(path)!r} of {name} cannot be read: {error.strerror}."
        raise _invalid(name, message) from error
    if b"-----BEGIN " not in content:
        raise _invalid(name, f"The file {os.fspath(path)!r} of {name} holds no PEM block: give a file in PEM format.")
    return content


def _invalid(field_name: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(message, violations=((field_name, message),))
