"""Adds one image: known already, or embedded, reduced to a thumbnail, and written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clipsr.v1 import library_pb2
from clipsr_gateway._backend.protocol import Fit, Route
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.embed import embed_image
from clipsr_gateway._images.plan import PlannedImage, plan_image
from clipsr_gateway._images.turn import IMAGE_ERRORS, ROUTE_NUMBERS, size_message
from clipsr_gateway._library.checks import apply_changes, check_new_image, clean_metadata, clean_tags, refuse
from clipsr_gateway._library.core import LibraryCore
from clipsr_gateway._library.store.edits import Changes
from clipsr_gateway._library.store.records import LibrarySettings, Record, content_hash
from clipsr_gateway._library.thumbnails import make_thumbnail
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway.errors import ImageRejectedError

_CONTENT_FIELD = "image.image.content"

# Images that are decoded for their thumbnails at once: the largest that is allowed takes 200 MB.
_DECODING_AT_ONCE = 4

# Reducing so many pixels, of a file of few bytes, takes less than a millisecond; a thread is for what takes longer.
_FEW_PIXELS = 64 * 64


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """Where and how images of a call are added.

    Attributes:
        library: its name.
        settings: the library's.
        fit: how images that are not square are fitted.
        route: the route that the caller forces, or None.
        updates_present: whether images that are there take what their messages say of them.
    """

    library: str
    settings: LibrarySettings
    fit: Fit
    route: Route | None
    updates_present: bool


class Adder:
    """Adds images of all calls to libraries; the same image that comes twice at once is embedded once."""

    def __init__(self, core: LibraryCore) -> None:
        self._core = core
        self._coming: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._decoding = asyncio.Semaphore(_DECODING_AT_ONCE)

    async def add(self, image: library_pb2.NewImage, options: AddOptions, call: Call) -> library_pb2.AddImagesResponse:
        """Answer for one image, once it is in the library for good or cannot be.

        Raises:
            LibraryError, BackendUnavailableError, DeadlineExceededError: fails the whole call.
        """
        try:
            said = check_new_image(image, limits=self._core.library_limits)
            sha256 = await run_off_loop(len(image.image.content), content_hash, image.image.content)
            async with self._alone((options.library, sha256)):
                while True:  # until neither another gateway adds it nor somebody deletes it in between
                    known = await self._core.store.find(options.library, sha256)
                    if known is not None:
                        response = await self._keep(image, known, said, options)
                    else:
                        response = await self._add_new(image, sha256, options, call)
                    if response is not None:
                        return response
        except IMAGE_ERRORS as error:
            status = call.status_from_error(error, image=image.index)
            return library_pb2.AddImagesResponse(index=image.index, error=status)

    async def _keep(
        self, image: library_pb2.NewImage, known: Record, said: Changes, options: AddOptions
    ) -> library_pb2.AddImagesResponse | None:
        """Return the answer for an image that is there; None if it was deleted before it could be changed."""
        changed = apply_changes(said, known, field="image", limits=self._core.library_limits)
        is_updated = options.updates_present and changed != known
        if is_updated and not await self._core.store.update(options.library, known.sha256, said):
            return None
        present = library_pb2.PresentImage(
            sha256=known.sha256, differs=changed != known and not is_updated, updated=is_updated
        )
        return library_pb2.AddImagesResponse(index=image.index, already_present=present)

    async def _add_new(
        self, image: library_pb2.NewImage, sha256: str, options: AddOptions, call: Call
    ) -> library_pb2.AddImagesResponse | None:
        """Return the answer for an image that is not there; None if another gateway was faster."""
        content = image.image.content
        planned = await plan_image(content, field=_CONTENT_FIELD, forced=options.route, core=self._core)
        if isinstance(planned, PlannedImage):
            await call.admit_next(units=planned.units())
        embedded = await embed_image(planned, fit=options.fit, core=self._core, call=call)
        thumbnail = await self._reduce(embedded.image, side_px=options.settings.thumbnail_side_px)
        has_original = options.settings.keeps_originals and len(content) <= self._core.library_limits.max_original_bytes
        record = Record(
            sha256=sha256,
            source=image.source,
            tags=clean_tags(image.tags),
            metadata=clean_metadata(image.metadata),
            size_hw=embedded.image.size_hw,
            size_bytes=len(content),
            media_type=embedded.image.media_type,
            model_digest=self._core.manifest.digest,
            fit=options.fit,
            route=embedded.image.route,
            is_route_forced=options.route is not None,
            has_original=has_original,
            thumbnail=thumbnail,
            original=content if has_original else None,
            embedding=embedded.embedding,
        )
        with call.stage("store"):
            is_added = await self._core.store.add(options.library, record)
        if not is_added:
            return None
        added = library_pb2.AddedImage(
            sha256=sha256,
            size=size_message(record.size_hw),
            route=ROUTE_NUMBERS[record.route],
            has_original=has_original,
            timing=embedded.timing,
        )
        return library_pb2.AddImagesResponse(index=image.index, added=added)

    async def _reduce(self, image: PlannedImage, *, side_px: int) -> bytes:
        """Return the thumbnail.

        Raises:
            InvalidRequestError: the file is damaged.
        """
        height, width = image.size_hw
        try:
            if height * width <= _FEW_PIXELS:
                return await run_off_loop(len(image.content), make_thumbnail, image.content, side_px=side_px)
            async with self._decoding:
                return await asyncio.to_thread(make_thumbnail, image.content, side_px=side_px)
        except ImageRejectedError as error:
            raise refuse(image.field, error.reason, error.message) from error

    @asynccontextmanager
    async def _alone(self, key: tuple[str, str]) -> AsyncGenerator[None]:
        """Wait until nobody else adds this image."""
        while (other := self._coming.get(key)) is not None:
            await asyncio.wait({other})
        mine = self._coming[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self._coming[key]
            mine.set_result(None)
