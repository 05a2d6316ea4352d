"""Adds one image: known already, or embedded, reduced to a thumbnail, and written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from google.rpc import (  # pyright: ignore[reportMissingTypeStubs] - its stubs lack a package file
    code_pb2,
    status_pb2,
)

from clipsr.v1 import library_pb2
from clipsr_gateway._backend.protocol import Fit, Route
from clipsr_gateway._calls.call import Call
from clipsr_gateway._calls.status import invalid_argument, read_reason
from clipsr_gateway._images.embed import ImageEmbedder
from clipsr_gateway._images.plan import PlannedImage, plan_image
from clipsr_gateway._images.run import ROUTE_NUMBERS, ImageResult, size_message
from clipsr_gateway._library.checks import clean_tags, new_image_violation
from clipsr_gateway._library.store.records import LibrarySettings, Record, content_hash
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_gateway._library.thumbnails import make_thumbnail
from clipsr_gateway._limits import LibraryLimits, Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway.errors import (
    BackendFaultError,
    GatewayError,
    ImageRejectedError,
    InvalidRequestError,
    Violation,
)

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
    """

    library: str
    settings: LibrarySettings
    fit: Fit
    route: Route | None


class Adder:
    """Adds images to libraries, whoever sends them; the same image that comes twice at once is embedded once.

    Args:
        store: where the libraries are.
        embedder: embeds images.
        manifest: what is served.
        limits: what a request may hold.
        library_limits: what an image of a library may have.
    """

    def __init__(
        self,
        *,
        store: LibraryStore,
        embedder: ImageEmbedder,
        manifest: Manifest,
        limits: Limits,
        library_limits: LibraryLimits,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._manifest = manifest
        self._limits = limits
        self._library_limits = library_limits
        self._coming: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._decoding = asyncio.Semaphore(_DECODING_AT_ONCE)

    async def add(self, image: library_pb2.NewImage, options: AddOptions, call: Call) -> library_pb2.AddImagesResponse:
        """Answer for one image, once it is in the library for good or cannot be.

        Raises:
            LibraryError, BackendUnavailableError, DeadlineExceededError: the other images would fare no better.
        """
        content = image.image.content
        if violation := new_image_violation(image, limits=self._library_limits):
            return _refused(image, invalid_argument([violation]))
        sha256 = await run_off_loop(len(content), content_hash, content)
        async with self._alone((options.library, sha256)):
            if await self._store.has(options.library, sha256):
                return library_pb2.AddImagesResponse(
                    index=image.index, already_present=library_pb2.PresentImage(sha256=sha256)
                )
            return await self._add_new(image, sha256, options, call)

    async def _add_new(
        self, image: library_pb2.NewImage, sha256: str, options: AddOptions, call: Call
    ) -> library_pb2.AddImagesResponse:
        content = image.image.content
        planned = await run_off_loop(
            len(content),
            plan_image,
            content,
            number=image.index,
            field=_CONTENT_FIELD,
            forced=options.route,
            manifest=self._manifest,
            limits=self._limits,
        )
        if isinstance(planned, PlannedImage):
            await call.admit_next(units=planned.units())
        answered = await self._embedder.embed(planned, fit=options.fit, call=call)
        if not isinstance(answered, ImageResult):
            return _refused(image, answered)
        try:
            thumbnail = await self._reduce(answered.image, side_px=options.settings.thumbnail_side_px)
        except ImageRejectedError as error:
            violation = Violation(field=_CONTENT_FIELD, reason=error.reason, message=error.message)
            return _refused(image, invalid_argument([violation]))
        has_original = options.settings.keeps_originals and len(content) <= self._library_limits.max_original_bytes
        record = Record(
            sha256=sha256,
            source=image.source,
            tags=clean_tags(image.tags),
            metadata=dict(image.metadata),
            size_hw=answered.image.size_hw,
            size_bytes=len(content),
            media_type=answered.image.media_type,
            model_digest=self._manifest.digest,
            fit=options.fit,
            route=answered.image.route,
            is_route_forced=options.route is not None,
            has_original=has_original,
            thumbnail=thumbnail,
            original=content if has_original else None,
            embedding=answered.answer,
        )
        with call.stage("store"):
            is_added = await self._store.add(options.library, record)
        if not is_added:  # another gateway was faster
            return library_pb2.AddImagesResponse(
                index=image.index, already_present=library_pb2.PresentImage(sha256=sha256)
            )
        return library_pb2.AddImagesResponse(
            index=image.index,
            added=library_pb2.AddedImage(
                sha256=sha256,
                size=size_message(record.size_hw),
                route=ROUTE_NUMBERS[record.route],
                has_original=has_original,
                timing=answered.timing,
            ),
        )

    async def _reduce(self, image: PlannedImage, *, side_px: int) -> bytes:
        height, width = image.size_hw
        if height * width <= _FEW_PIXELS:
            return await run_off_loop(len(image.content), make_thumbnail, image.content, side_px=side_px)
        async with self._decoding:
            return await asyncio.to_thread(make_thumbnail, image.content, side_px=side_px)

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


def _refused(image: library_pb2.NewImage, status: status_pb2.Status) -> library_pb2.AddImagesResponse:
    return library_pb2.AddImagesResponse(index=image.index, error=status)


def error_from_status(status: status_pb2.Status, *, field: str) -> GatewayError:
    """Return the error of a call that fails with its only image."""
    if status.code == code_pb2.INVALID_ARGUMENT:
        violation = Violation(field=field, reason=read_reason(status), message=status.message)
        return InvalidRequestError([violation])
    return BackendFaultError(status.message)
