"""Label spaces that were checked before: callers send the same labels with every image."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from clipsr_gateway._backend.protocol import EncodedLabels
from clipsr_gateway._texts.labels import LabelQuery

# Measured, in resident memory: two labels take 4 kB, and longer lists ten times what they have on the wire; twice that
# where images go in groups, since the tensors for eight images are kept as well.
_ENTRY_BYTES, _BYTES_PER_BYTE = 8 * 1024, 20
_MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class KnownLabels:
    """Labels and templates, checked and encoded for the backend.

    Attributes:
        query: as the models take them.
        encoded: as the backend takes them.
    """

    query: LabelQuery
    encoded: EncodedLabels


class LabelCache:
    """Keeps what was used last. Belongs to one event loop.

    Args:
        max_bytes: of memory, by estimate; about 8,000 short lists, or 20 of 10,000 labels.
    """

    def __init__(self, *, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._known: OrderedDict[bytes, KnownLabels] = OrderedDict()

    def __len__(self) -> int:
        """Return how many label spaces are kept."""
        return len(self._known)

    def get(self, serialized: bytes) -> KnownLabels | None:
        """Return what is known of a serialized LabelSpace."""
        known = self._known.get(serialized)
        if known is not None:
            self._known.move_to_end(serialized)
        return known

    def put(self, serialized: bytes, known: KnownLabels) -> None:
        """Keep a label space, and forget those that were not used for longest."""
        if serialized not in self._known:
            self._bytes += _memory_bytes(serialized)
        self._known[serialized] = known
        while self._bytes > self._max_bytes:
            forgotten, _ = self._known.popitem(last=False)
            self._bytes -= _memory_bytes(forgotten)


def _memory_bytes(serialized: bytes) -> int:
    return _ENTRY_BYTES + _BYTES_PER_BYTE * len(serialized)
