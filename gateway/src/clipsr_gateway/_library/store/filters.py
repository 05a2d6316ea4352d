"""Typed conditions become predicates of the store's SQL dialect; nothing of a caller's text is ever read as SQL."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from clipsr_gateway._library.store.records import Filter


def predicate(where: Filter) -> str:
    """Return the predicate of a filter; empty if it lets everything through."""
    conditions: list[str] = []
    if where.all_tags:
        conditions.append(f"array_has_all(tags, {_list(where.all_tags)})")
    if where.any_tags:
        conditions.append(f"array_has_any(tags, {_list(where.any_tags)})")
    if where.metadata:
        entries = [metadata_entry(key, value) for key, value in sorted(where.metadata.items())]
        conditions.append(f"array_has_all(metadata, {_list(entries)})")
    if where.added_from_us is not None:
        conditions.append(f"add_time >= {_time(where.added_from_us)}")
    if where.added_before_us is not None:
        conditions.append(f"add_time < {_time(where.added_before_us)}")
    if where.source_prefix:
        begins = " OR ".join(f"starts_with(source, {_text(form)})" for form in _forms(where.source_prefix))
        conditions.append(f"({begins})")
    return " AND ".join(conditions)


def metadata_entry(key: str, value: str) -> str:
    """Return how a value is stored. A key has no "=", so no two entries look alike."""
    return f"{key}={value}"


def has_hashes(hashes: Iterable[str]) -> str:
    """Return the predicate of rows by their names, of which there is at least one."""
    return f"sha256 IN ({', '.join(map(_text, hashes))})"


def after(time_us: int, sha256: str, *, newest_first: bool) -> str:
    """Return the predicate of the rows behind one, in the order of (add_time, sha256) or the opposite one."""
    sign, time = "<" if newest_first else ">", _time(time_us)
    return f"(add_time {sign} {time} OR (add_time = {time} AND sha256 {sign} {_text(sha256)}))"


def _forms(text: str) -> list[str]:
    """Return a text in all the Unicode forms that sources may have: they are kept as given, as they may name files."""
    return sorted({text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))})


def _text(value: str) -> str:
    """Return a literal: within single quotes only the quote itself means something, and two of them are one."""
    return "'" + value.replace("'", "''") + "'"


def _list(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def _time(microseconds: int) -> str:
    return f"arrow_cast({microseconds:d}, 'Timestamp(Microsecond, Some(\"UTC\"))')"
