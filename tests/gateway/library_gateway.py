"""A gateway that keeps libraries, as a process of its own for tests that kill it; its backend answers at once."""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path

from tests.gateway.conftest import FakeBackend

from clipsr_gateway import Gateway, GatewayConfig, load_manifest
from clipsr_gateway._library.store import maintenance, store


def tidy_often() -> None:
    """Joins files and builds indexes all the time, so that a kill finds it doing so."""
    maintenance._MAX_COMMITS = 3
    maintenance._MIN_COMMITS_WHEN_IDLE = 2
    store.MaintenanceConfig = functools.partial(  # pyright: ignore[reportAttributeAccessIssue]
        maintenance.MaintenanceConfig, scalar_index_rows=100, vector_index_rows=300, idle_s=0.2
    )


async def serve(repository: Path, uri: str) -> None:
    """Says on standard output which port it took, and serves until it is killed."""
    config = GatewayConfig(listen="127.0.0.1:0", repository=repository, library_uri=uri)
    gateway = Gateway(config, manifest=load_manifest(repository), backend=FakeBackend())
    print(await gateway.start(), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if "--tidy-often" in sys.argv:
        tidy_often()
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
