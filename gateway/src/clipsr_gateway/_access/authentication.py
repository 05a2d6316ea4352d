"""Finds out who calls, from a key file that may change at any time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipsr_gateway._access.callers import Caller
from clipsr_gateway._access.keys import KeySet, read_keys
from clipsr_gateway._logs import log_event
from clipsr_gateway.errors import KeyFileError, UnauthenticatedError

_METADATA_KEY = "authorization"
_SCHEME = "bearer "  # case does not matter; RFC 9110, section 11.1

# How often the file is looked at; a look is one stat().
_POLL_S = 1.0

# A secret mounted by Kubernetes is a link to a link: its inode changes, its times may not.
_Fingerprint = tuple[int, int, int]


class Authenticator:
    """Knows the callers of a key file.

    Args:
        path: the key file; None lets everybody in, without a name.

    Raises:
        KeyFileError: the file is wrong. Later on, a wrong file is logged, and the last right one stays in force.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._callers: dict[str, Caller] = {}
        self._keys = KeySet(())
        if path is not None:
            self._fingerprint = _fingerprint(path)
            self._take_over(read_keys(path))

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return self._path is None

    def authenticate(self, metadata: Sequence[tuple[str, Any]] | None) -> Caller | None:
        """Return who calls, None where no key is asked for.

        Raises:
            UnauthenticatedError: there is no key, or none of the file. The sentence never repeats the key.
        """
        if self._path is None:
            return None
        value = next((value for key, value in metadata or () if key == _METADATA_KEY), None)
        if value is None:
            message = "This service asks for an API key; send it as metadata 'authorization: Bearer KEY'."
            raise UnauthenticatedError("API_KEY_MISSING", message)
        text = value if isinstance(value, str) else ""
        is_bearer = text[: len(_SCHEME)].lower() == _SCHEME
        key = self._keys.find(text[len(_SCHEME) :].strip()) if is_bearer else None
        if key is None:
            message = "This API key is not valid here; ask the operator of the service for one."
            raise UnauthenticatedError("API_KEY_INVALID", message)
        return self._callers[key.name]

    def reload(self) -> bool:
        """Read the file again; a wrong one is logged and change nothing.

        Returns:
            Whether what it says is in force.
        """
        if self._path is None:
            return True
        try:
            keys = read_keys(self._path)
        except KeyFileError as error:
            fields = {"cause": str(error), "names_in_force": len(self._keys.keys)}
            log_event("keys_rejected", fields, level=logging.ERROR)
            return False
        self._take_over(keys)
        log_event("keys_loaded", {"names": sorted(keys.keys)})
        return True

    async def watch(self) -> None:
        """Reload whenever the file changes, until cancelled."""
        while self._path is not None:
            await asyncio.sleep(_POLL_S)
            # The file may be on a slow volume.
            fingerprint = await asyncio.to_thread(_fingerprint, self._path)
            if fingerprint != self._fingerprint:
                self._fingerprint = fingerprint
                self.reload()

    def _take_over(self, keys: KeySet) -> None:
        for name, key in keys.keys.items():
            caller = self._callers.get(name)
            if caller is None:
                self._callers[name] = Caller(key)
            else:
                caller.change(key.limits)
        for name in set(self._callers) - set(keys.keys):
            del self._callers[name]  # its calls in progress go on to their end
        self._keys = keys


def _fingerprint(path: Path) -> _Fingerprint | None:
    with contextlib.suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None
