"""ReembedLibrary: the images of a library through the model that is served, and how far that is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from clipsr.v1 import library_pb2
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.embed import embed_image
from clipsr_gateway._images.plan import PlannedImage, plan_image
from clipsr_gateway._library.core import LibraryCore
from clipsr_gateway._library.messages import library_message
from clipsr_gateway._library.store.records import Record
from clipsr_gateway._library.store.reembed import Progress, Reembedding
from clipsr_gateway.errors import InvalidRequestError, ShuttingDownError, StreamExpiredError

# Between two messages about the progress.
_INTERVAL_S = 1.0

_KEPT = "what was embedded is kept, and the same call goes on from there."


async def reembed(
    request: library_pb2.ReembedLibraryRequest,
    *,
    core: LibraryCore,
    write: Callable[[library_pb2.ReembedLibraryResponse], Awaitable[None]],
    call: Call,
) -> None:
    """Answer a checked request.

    Raises:
        LibraryError, BackendError, DeadlineExceededError, ShuttingDownError, StreamExpiredError: what was embedded is
            kept for the next call.
    """
    expires_s = time.monotonic() + core.max_stream_age_s
    digest = core.manifest.digest
    work = Reembedding(
        core.store,
        request.library,
        model_digest=digest,
        embed_dim=core.manifest.embed_dim,
        embed=lambda record: _embed(record, core=core, call=call),
        drops=request.drop_without_original,
    )
    told_s, progress = 0.0, None
    async with contextlib.aclosing(work.run()) as running:
        async for progress in running:
            call.fields.update(done=progress.done, total=progress.total, dropped=progress.dropped)
            if call.draining.is_set():
                raise ShuttingDownError(f"This server is shutting down; {_KEPT}")
            if time.monotonic() > expires_s:
                raise StreamExpiredError(
                    f"A call of ReembedLibrary takes {core.max_stream_age_s:,.0f} s at most; {_KEPT}"
                )
            if time.monotonic() - told_s >= _INTERVAL_S:
                await write(_message(progress))
                told_s = time.monotonic()
    info = await (await core.store.open(request.library)).info()
    last = progress or Progress(done=info.image_count, total=info.image_count, dropped=0)
    message = _message(last)
    message.library.CopyFrom(library_message(info, served_digest=digest))
    await write(message)


async def _embed(record: Record, *, core: LibraryCore, call: Call) -> Record | None:
    """Return a record with the embedding of the model that is served; None if the model cannot read it.

    The file itself was read once, so that only another model's decoder can find fault with it. As when it was added, a
    route that the caller forced stays, and any other is chosen again.
    """
    forced = record.route if record.is_route_forced else None
    image = await plan_image(record.original or b"", field=record.sha256, forced=forced, core=core)
    if isinstance(image, PlannedImage):
        await call.admit_next(units=image.units())
    try:
        embedded = await embed_image(image, fit=record.fit, core=core, call=call)
    except InvalidRequestError:
        return None
    digest = core.manifest.digest
    return replace(record, embedding=embedded.embedding, route=embedded.image.route, model_digest=digest)


def _message(progress: Progress) -> library_pb2.ReembedLibraryResponse:
    return library_pb2.ReembedLibraryResponse(
        done_count=progress.done, total_count=progress.total, dropped_count=progress.dropped
    )
