"""What the parts of LibraryService work with."""

from __future__ import annotations

from dataclasses import dataclass

from clipsr_gateway._backend.core import Core
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_gateway._limits import LibraryLimits


@dataclass(frozen=True, kw_only=True)
class LibraryCore(Core):
    """What the parts of LibraryService work with.

    Attributes:
        store: where the libraries are.
        library_limits: what a library may hold.
    """

    store: LibraryStore
    library_limits: LibraryLimits
