"""Changes what a caller said of images, which are in the library already: source, tags and metadata."""

# pyarrow and pylance ship no or partial types: what comes out of them is unknown.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from clipsr_gateway._library.store import filters
from clipsr_gateway._library.store.records import Filter, Parts, Record
from clipsr_gateway._library.store.schema import column_names, edited_columns, read_records
from clipsr_gateway._library.store.storage_errors import is_contended, storage_errors
from clipsr_gateway._library.store.table import LibraryTable

if TYPE_CHECKING:
    from lance import LanceDataset

# Other writers came first: as often as Lance itself tries to commit what needs no second look.
_ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What changes of an image; removals come first.

    Attributes:
        source: the new one; None leaves the old one.
        clears_tags: whether all tags are removed.
        remove_tags, add_tags: single ones.
        clears_metadata: whether all values are removed.
        remove_metadata: keys of values to remove.
        set_metadata: values by key.
    """

    source: str | None = None
    clears_tags: bool = False
    remove_tags: Sequence[str] = ()
    add_tags: Sequence[str] = ()
    clears_metadata: bool = False
    remove_metadata: Sequence[str] = ()
    set_metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    def apply(self, record: Record) -> Record:
        """Return a record with the changes; applying them once more changes nothing."""
        tags = () if self.clears_tags else record.tags
        tags = [tag for tag in tags if tag not in self.remove_tags]
        metadata = {} if self.clears_metadata else record.metadata
        metadata = {key: value for key, value in metadata.items() if key not in self.remove_metadata}
        return replace(
            record,
            source=record.source if self.source is None else self.source,
            tags=tuple(dict.fromkeys((*tags, *self.add_tags))),
            metadata={**metadata, **self.set_metadata},
        )


@dataclass(frozen=True, kw_only=True)
class Edited:
    """What an edit did.

    Attributes:
        matched: hashes of the rows that were meant and are there.
        changed: hashes of those that are no longer as they were.
    """

    matched: frozenset[str]
    changed: frozenset[str]


async def edit(
    table: LibraryTable, change: Callable[[Record], Record], *, hashes: Sequence[str] = (), where: Filter | None = None
) -> Edited:
    """Change rows by their hashes, or those that a filter lets through, in one commit or not at all.

    A commit of another writer that touches the rows between reading and writing makes this read them again, so neither
    loses anything and what was deleted stays so. Vectors and files are neither read nor written.

    Args:
        table: the library's.
        change: returns a record with another source, other tags or metadata; may raise, and then nothing changes.
        hashes: of the rows; or
        where: which rows.

    Raises:
        StorageUnavailableError: other writers came first too often.
    """
    condition = filters.has_hashes(hashes) if hashes else filters.predicate(where or Filter())
    with storage_errors(table.name):
        for _ in range(_ATTEMPTS - 1):
            try:
                return await asyncio.to_thread(_edit, await table.raw.to_lance(), change, condition)
            except OSError as error:
                if not is_contended(str(error)):
                    raise
        return await asyncio.to_thread(_edit, await table.raw.to_lance(), change, condition)


def _edit(dataset: LanceDataset, change: Callable[[Record], Record], condition: str) -> Edited:
    """Read, change and write rows of the version that a dataset shows; raise OSError if theirs is not the newest."""
    rows = read_records(dataset.to_table(columns=column_names(Parts()), filter=condition or None))
    pairs = [(row, change(row)) for row in rows]
    changed = [new for old, new in pairs if new != old]
    if changed:  # a commit of nothing would leave a version
        # No retries: Lance would write what was made of the older rows. No index: see LibraryTable.insert().
        merge = dataset.merge_insert("sha256").when_matched_update_all().conflict_retries(0).use_index(False)
        merge.execute(edited_columns(changed, dataset.schema))
    return Edited(matched=frozenset(row.sha256 for row in rows), changed=frozenset(record.sha256 for record in changed))
