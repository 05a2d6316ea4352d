"""What a library's older versions hold on disk, and their removal: Lance keeps each version until it is cleaned up."""

# pylance ships partial types: what comes out of it is unknown.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, cast

from clipsr_gateway._library.store.storage_errors import storage_errors
from clipsr_gateway._library.store.table import LibraryTable

if TYPE_CHECKING:
    from lance import LanceDataset


async def rewrite_deletions(table: LibraryTable) -> bool:
    """Write files that hold deleted rows again without them; return whether there were any.

    Until then a deleted row is only marked: its bytes stay in the file of the rows beside it, in every version.
    """
    dataset = await _dataset(table)

    def rewrite() -> bool:
        if not any(fragment.num_deletions for fragment in dataset.get_fragments()):
            return False
        dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
        return True

    with storage_errors(table.name):
        return await asyncio.to_thread(rewrite)


async def remove_expired_versions(table: LibraryTable, *, keep: timedelta) -> float | None:
    """Remove versions that were superseded longer ago than `keep`, with the files that no later one has.

    Needs no free space.

    Returns:
        Seconds until the next version expires; None if only the newest one is left.
    """
    dataset = await _dataset(table)

    def remove() -> float | None:
        versions = [
            Version(number=v["version"], written=_utc(cast("datetime", v["timestamp"]))) for v in dataset.versions()
        ]
        expired, wait_s = split_expired(versions, now=datetime.now(timezone.utc), keep=keep)
        if expired:
            # Marked versions (tags) are nobody's but an operator's: they stay.
            dataset.cleanup_old_versions(versions=expired, error_if_tagged_old_versions=False)
        return wait_s

    with storage_errors(table.name):
        return await asyncio.to_thread(remove)


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a table.

    Attributes:
        number: counts up.
        written: when it was committed, with a time zone.
    """

    number: int
    written: datetime


def split_expired(versions: Sequence[Version], *, now: datetime, keep: timedelta) -> tuple[list[int], float | None]:
    """Return the versions whose successor is older than `keep`, and the seconds until the next one is such.

    A version's own age says nothing: one of last week may have been read until a moment ago.
    """
    ordered = sorted(versions, key=lambda version: version.number)
    expired: list[int] = []
    for version, successor in itertools.pairwise(ordered):
        left_s = (successor.written + keep - now).total_seconds()
        if left_s > 0:
            return expired, left_s
        expired.append(version.number)
    return expired, None


def _utc(timestamp: datetime) -> datetime:
    """Return a time with its zone; pylance's are local and have none."""
    return timestamp.astimezone(timezone.utc)


async def _dataset(table: LibraryTable) -> LanceDataset:
    with storage_errors(table.name):
        return await table.raw.to_lance()
