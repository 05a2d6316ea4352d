"""ReembedLibrary: the images of a library through the model that is served, and how far that is."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from google.rpc import code_pb2  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file

from clipsr.v1 import library_pb2
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.embed import ImageEmbedder
from clipsr_gateway._images.plan import PlannedImage, plan_image
from clipsr_gateway._images.run import ImageResult
from clipsr_gateway._library.add import error_from_status
from clipsr_gateway._library.messages import library_message
from clipsr_gateway._library.store.records import Record
from clipsr_gateway._library.store.reembed import Progress, Reembedding
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway.errors import ShuttingDownError, StreamExpiredError

# Between two messages about the progress.
_INTERVAL_S = 1.0

_KEPT = "what was embedded is kept, and the same call goes on from there."


async def reembed(
    request: library_pb2.ReembedLibraryRequest,
    *,
    store: LibraryStore,
    embedder: ImageEmbedder,
    manifest: Manifest,
    limits: Limits,
    write: Callable[[library_pb2.ReembedLibraryResponse], Awaitable[None]],
    draining: asyncio.Event,
    max_age_s: float,
    call: Call,
) -> None:
    """Answer a checked request.

    Raises:
        LibraryError, BackendError, DeadlineExceededError, ShuttingDownError, StreamExpiredError: what was embedded is
            kept for the next call.
    """
    expires_s = time.monotonic() + max_age_s

    async def embed(record: Record) -> Record | None:
        return await _embed(record, embedder=embedder, manifest=manifest, limits=limits, call=call)

    work = Reembedding(
        store,
        request.library,
        model_digest=manifest.digest,
        embed_dim=manifest.embed_dim,
        embed=embed,
        drops=request.drop_without_original,
    )
    told_s, progress = 0.0, None
    async with contextlib.aclosing(work.run()) as running:
        async for progress in running:
            call.fields.update(done=progress.done, total=progress.total, dropped=progress.dropped)
            if draining.is_set():
                raise ShuttingDownError(f"This server is shutting down; {_KEPT}")
            if time.monotonic() > expires_s:
                raise StreamExpiredError(f"A call of ReembedLibrary takes {max_age_s:,.0f} s at most; {_KEPT}")
            if time.monotonic() - told_s >= _INTERVAL_S:
                await write(_message(progress))
                told_s = time.monotonic()
    info = await (await store.open(request.library)).info()
    last = progress or Progress(done=info.image_count, total=info.image_count, dropped=0)
    message = _message(last)
    message.library.CopyFrom(library_message(info, served_digest=manifest.digest))
    await write(message)


async def _embed(
    record: Record, *, embedder: ImageEmbedder, manifest: Manifest, limits: Limits, call: Call
) -> Record | None:
    """Return a record with the embedding of the model that is served; None if the model cannot read it.

    The file itself was read once, so that only another model's decoder can find fault with it. As when it was added, a
    route that the caller forced stays, and any other is chosen again.
    """
    content = record.original or b""
    image = await run_off_loop(
        len(content),
        plan_image,
        content,
        number=0,
        field=record.sha256,
        forced=record.route if record.is_route_forced else None,
        manifest=manifest,
        limits=limits,
    )
    if isinstance(image, PlannedImage):
        await call.admit_next(units=image.units())
    answered = await embedder.embed(image, fit=record.fit, call=call)
    if isinstance(answered, ImageResult):
        return replace(record, embedding=answered.answer, route=answered.image.route, model_digest=manifest.digest)
    if answered.code == code_pb2.INVALID_ARGUMENT:
        return None
    raise error_from_status(answered, field="")


def _message(progress: Progress) -> library_pb2.ReembedLibraryResponse:
    return library_pb2.ReembedLibraryResponse(
        done_count=progress.done, total_count=progress.total, dropped_count=progress.dropped
    )
