"""API keys: how they are made, what is kept of them, and the file that names who may call.

A key is 256 random bits, made here and never chosen by a person. So what is kept is its plain SHA-256: there is no
dictionary to try and nothing to gain from a salt, which exists to make equal passwords look different, nor from a slow
hash, which would let anybody who sends wrong keys keep the processor busy. Source: NIST SP 800-63B, section 5.1.2.2,
which asks for salts and slow hashes only below 112 bits.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import ConfigDict, Field, field_validator, model_validator

from clipsr_gateway._json_file import FieldError, Strict, parse_json
from clipsr_gateway.errors import KeyFileError

# Tells people, and the scanners that look for published secrets, what this is.
_PREFIX = "clipsr_"
_SECRET_BYTES = 32

# Names go into logs, metrics and traces, so they are short and plain.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Metrics have one series for each name.
_MAX_NAMES = 1_000


@dataclass(frozen=True, kw_only=True)
class KeyLimits:
    """What the holder of a key may do.

    Attributes:
        items_per_second: images or texts a second on average; 0 is unlimited.
        burst: images or texts at once before the average counts; 0 where `items_per_second` is.
        max_concurrent_calls: calls in progress at once; 0 is unlimited.
    """

    items_per_second: float = 0.0
    burst: int = 0
    max_concurrent_calls: int = 0

    def __post_init__(self) -> None:
        """Refuse limits that contradict each other.

        Raises:
            ValueError: saying which.
        """
        if not 0 <= self.items_per_second < float("inf"):
            raise ValueError("items_per_second must be a number from 0 (unlimited)")
        if self.max_concurrent_calls < 0 or self.burst < 0:
            raise ValueError("burst and max_concurrent_calls must not be negative")
        if bool(self.burst) != bool(self.items_per_second):
            raise ValueError("burst and items_per_second belong together: give both, or none")


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One caller.

    Attributes:
        name: of the caller, as it appears in logs and metrics.
        sha256: of each key that is valid, lower-case hexadecimal; two while a key is exchanged.
        limits: for all of its keys together.
    """

    name: str
    sha256: tuple[str, ...]
    limits: KeyLimits


class KeySet:
    """The callers of one key file."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = {key.name: key for key in keys}
        self._hashes = [(bytes.fromhex(digest), key) for key in keys for digest in key.sha256]

    @property
    def keys(self) -> Mapping[str, ApiKey]:
        """The callers by name."""
        return self._keys

    def find(self, key: str) -> ApiKey | None:
        """Return whose key this is, or None; how long it takes does not depend on how well a key matches."""
        presented = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for digest, owner in self._hashes:  # all of them, always
            if hmac.compare_digest(digest, presented):
                found = owner
        return found


def make_key() -> str:
    """Return a new key: printable, 256 random bits."""
    return _PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(_SECRET_BYTES)).decode().rstrip("=")


def hash_key(key: str) -> str:
    """Return what is kept of a key: its SHA-256, lower-case hexadecimal."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> KeySet:
    """Read a key file.

    Raises:
        KeyFileError: it cannot be read or does not follow the format of docs/operations.md.
    """
    try:
        return KeySet(_parse(path, path.read_bytes()))
    except OSError as cause:
        raise KeyFileError(path, f"cannot be read: {cause.strerror}.") from cause


def add_key(path: Path, name: str, *, limits: KeyLimits | None, replaces: bool = False) -> str:
    """Make a key and write its hash to the file, which is replaced in one step and made if it is not there.

    Args:
        path: the key file.
        name: whose key it is; a name that is there already gets a further key.
        limits: of all keys of that name; None keeps those that are there.
        replaces: makes the name's former keys invalid.

    Returns:
        The key, which is nowhere else.

    Raises:
        KeyFileError: the file or the name is wrong, or the file cannot be written.
    """
    known = dict(read_keys(path).keys) if path.exists() else {}
    former = known.get(name, ApiKey(name=name, sha256=(), limits=KeyLimits()))
    key = make_key()
    kept = () if replaces else former.sha256
    known[name] = ApiKey(name=name, sha256=(*kept, hash_key(key)), limits=limits or former.limits)
    content = json.dumps({"keys": [_to_entry(one) for one in known.values()]}, indent=2) + "\n"
    _parse(path, content.encode())
    _write(path, content)
    return key


def _to_entry(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "sha256": list(key.sha256),
        "items_per_second": key.limits.items_per_second,
        "burst": key.limits.burst,
        "max_concurrent_calls": key.limits.max_concurrent_calls,
    }


class _Entry(Strict):
    """One name of the file; unknown fields are refused, for a mistyped limit would be none."""

    model_config = ConfigDict(extra="forbid")

    name: str
    sha256: list[str]
    items_per_second: float = 0.0
    burst: int = 0
    max_concurrent_calls: int = 0

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("must be 1 to 63 letters, digits, dots, hyphens or underscores")
        return name

    @field_validator("sha256", mode="before")
    @classmethod
    def _check_hashes(cls, value: Any) -> list[str]:
        hashes = cast("list[Any]", value if isinstance(value, list) else [value])
        if not hashes or not all(isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in hashes):
            raise ValueError("must list SHA-256 hashes, each of 64 lower-case hexadecimal digits")
        return hashes

    @model_validator(mode="after")
    def _check_limits(self) -> _Entry:
        self.to_key()
        return self

    def to_key(self) -> ApiKey:
        limits = KeyLimits(
            items_per_second=self.items_per_second, burst=self.burst, max_concurrent_calls=self.max_concurrent_calls
        )
        return ApiKey(name=self.name, sha256=tuple(self.sha256), limits=limits)


class _Document(Strict):
    keys: Annotated[tuple[_Entry, ...], Field(max_length=_MAX_NAMES)]

    @field_validator("keys")
    @classmethod
    def _check_names(cls, entries: tuple[_Entry, ...]) -> tuple[_Entry, ...]:
        names = [entry.name for entry in entries]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"names {name!r} twice; put all hashes of a name into its one list")
        return entries


def _parse(path: Path, content: bytes) -> list[ApiKey]:
    try:
        return [entry.to_key() for entry in parse_json(content, _Document).keys]
    except FieldError as error:
        hint = "`clipsr-gateway keys new NAME` writes the format."
        if error.kind == "json_invalid":
            raise KeyFileError(path, f"is not JSON; {hint}") from error
        raise KeyFileError(path, f"{error.field or 'the document'} {error}; {hint}") from error


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, so that a gateway never reads half of it; readable by its owner only."""
    target = path.resolve()  # a link stays one
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as cause:
        raise KeyFileError(path, f"cannot be written: {cause.strerror}.") from cause
