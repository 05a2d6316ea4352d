"""Rows for tests of the store; run as a program, it adds some until it is killed."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from typing import Any

import numpy as np

from clipsr_gateway._library.store.maintenance import MaintenanceConfig
from clipsr_gateway._library.store.records import LibrarySettings, Record
from clipsr_gateway._library.store.store import LibraryStore

DIM = 32
DIGEST = "sha256:" + "ab" * 32
SETTINGS = LibrarySettings(
    model_digest=DIGEST, embed_dim=DIM, keeps_originals=True, thumbnail_side_px=64, create_time_us=1_700_000_000_000_000
)


def embedding(number: int, *, dim: int = DIM) -> np.ndarray:
    values = np.random.default_rng(number).normal(size=dim).astype(np.float32)
    return values / np.linalg.norm(values)


def original(number: int, *, size: int = 1000) -> bytes:
    return np.random.default_rng(number).bytes(size)


def row(number: int, **changes: Any) -> Record:
    """A complete row; everything in it follows from its number."""
    content = original(number)
    values: dict[str, Any] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "source": f"{number}.png",
        "tags": (f"t{number % 10}",),
        "metadata": {"number": str(number)},
        "size_hw": (8, 8),
        "size_bytes": len(content),
        "media_type": "image/png",
        "model_digest": DIGEST,
        "fit": "",
        "route": "upscaled",
        "is_route_forced": False,
        "has_original": True,
        "thumbnail": original(number, size=100),
        "original": content,
        "embedding": embedding(number),
    }
    return Record(**values | changes)


def is_whole(record: Record) -> bool:
    """Whether all parts of a row that was read are those of its number."""
    expected = row(int(record.metadata["number"]))
    return (
        record.sha256 == expected.sha256
        and record.original == expected.original
        and record.thumbnail == expected.thumbnail
        and record.embedding is not None
        and np.array_equal(record.embedding, np.asarray(expected.embedding))
    )


async def add_forever(uri: str, start: int) -> None:
    """Adds rows, eight at a time, and says which are acknowledged."""
    store = LibraryStore(uri, max_libraries=4, maintenance=MaintenanceConfig(idle_s=0.2))
    numbers = iter(range(start, start + 100_000))

    async def work() -> None:
        for number in numbers:
            await store.add("pets", row(number))
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

    await asyncio.gather(*(work() for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(add_forever(sys.argv[1], int(sys.argv[2])))
