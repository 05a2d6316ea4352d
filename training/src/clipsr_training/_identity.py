"""What tells data, models and settings from others: their content, never their names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{64}")


def digest_files(read: Callable[[int], bytes], n: int) -> str:
    """Return the SHA-256 over the files 0 to n - 1, in order."""
    digest = hashlib.sha256()
    for i in range(n):
        digest.update(hashlib.sha256(read(i)).digest())
    return digest.hexdigest()


def digest_modules(*modules: nn.Module | None, facts: str = "") -> str:
    """Return the SHA-256 over all weights and over what else decides a model's answers."""
    digest = hashlib.sha256(facts.encode())
    for module in modules:
        for name, value in ({} if module is None else module.state_dict()).items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"


def first_difference(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Say in which setting two measurements or runs differ, as they are read from JSON; None: in none."""
    flat_was, flat_now = dict(_flat(was)), dict(_flat(now))
    names = [name for name in sorted({*flat_was, *flat_now}) if flat_was.get(name) != flat_now.get(name)]
    are_digests = [all(_is_digest(flat.get(name)) for flat in (flat_was, flat_now)) for name in names]
    # Digests say nothing to a reader, so they come last.
    for is_digest, name in sorted(zip(are_digests, names, strict=True)):
        if is_digest:
            return f"the content of {name.removesuffix('digest').rstrip('._')} has changed"
        return f"{name} was {flat_was.get(name)!r} and is now {flat_now.get(name)!r}"
    return None


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
