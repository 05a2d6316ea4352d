"""Label spaces that were checked before: callers send the same labels with every image."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

from cachetools import LRUCache

from clipsr.v1 import types_pb2
from clipsr_gateway._backend.protocol import EncodedLabels
from clipsr_gateway._texts.labels import LabelQuery

# Measured, in resident memory: two labels take 4 kB, and longer lists ten times what they have on the wire; twice that
# where images go in groups, since the tensors for eight images are kept as well.
_ENTRY_BYTES, _BYTES_PER_BYTE = 8 * 1024, 20
_MAX_BYTES = 64 * 1024 * 1024


@dataclass(kw_only=True, eq=False)
class KnownLabels:
    """Labels and templates, checked and encoded for the backend.

    Attributes:
        query: as the models take them.
        encoded: as the backend takes them.
        wire_bytes: size of the label space on the wire.
        field: path of a label in the request, with {} for its place; of the set where one was named.
        warmed_s: when the backend was last made to know them, by the clock of LabelWarmer.
        unknown: warnings of labels that mean little to the model.
        warnings: all that is doubtful about them; None until the backend has said so with the answer for an image.
    """

    query: LabelQuery
    encoded: EncodedLabels
    wire_bytes: int
    field: str
    unknown: tuple[types_pb2.Warning, ...] = ()
    warmed_s: float = -math.inf
    warnings: tuple[types_pb2.Warning, ...] | None = None


class LabelCache(LRUCache[bytes, KnownLabels]):
    """Keeps the label spaces that were used last, by their serialized form. Belongs to one event loop.

    Args:
        max_bytes: of memory, by estimate; about 8,000 short lists, or 20 of 10,000 labels.
    """

    def __init__(self, *, max_bytes: int = _MAX_BYTES) -> None:
        super().__init__(max_bytes, getsizeof=lambda known: _ENTRY_BYTES + _BYTES_PER_BYTE * known.wire_bytes)

    def put(self, serialized: bytes, known: KnownLabels) -> None:
        """Keep a label space, unless it is larger than the whole cache."""
        with contextlib.suppress(ValueError):
            self[serialized] = known
