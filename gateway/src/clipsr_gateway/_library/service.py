"""LibraryService: checks, embeddings by the means of the other services, and the store."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc.aio

from clipsr.v1 import library_pb2, library_pb2_grpc
from clipsr_gateway._calls.call import Call, current_call
from clipsr_gateway._calls.streams import ImageStream
from clipsr_gateway._images.plan import parse_image_options
from clipsr_gateway._library import checks
from clipsr_gateway._library.add import Adder, AddOptions
from clipsr_gateway._library.core import LibraryCore
from clipsr_gateway._library.messages import image_message, library_message
from clipsr_gateway._library.pages import list_images
from clipsr_gateway._library.reembed_call import reembed
from clipsr_gateway._library.search import Searches
from clipsr_gateway._library.store.records import LibrarySettings
from clipsr_gateway._library.store.table import check_model
from clipsr_gateway._library.text_queries import TextQueries

_Context = grpc.aio.ServicerContext[Any, Any]

# Images of a stream in the server, as a multiple of max_stream_images: those that keep the models busy, and as many
# that wait for their commit.
_SHARES = 2

_OUTCOMES = {"added": "added", "already_present": "present", "error": "failed"}


class LibraryService(library_pb2_grpc.LibraryServiceServicer):
    """Implements clipsr.v1.LibraryService.

    Args:
        core: what it works with.
    """

    def __init__(self, core: LibraryCore) -> None:
        self._core = core
        self._store = core.store
        self._adder = Adder(core)
        self._searches = Searches(core, texts=TextQueries(core))

    async def CreateLibrary(  # noqa: N802 - the name in the proto
        self, request: library_pb2.CreateLibraryRequest, context: _Context
    ) -> library_pb2.CreateLibraryResponse:
        """Create a library; see library.proto."""
        name = self._check_name(request.name, current_call(), field="name")
        manifest, limits = self._core.manifest, self._core.library_limits
        settings = LibrarySettings(
            model_digest=manifest.digest,
            embed_dim=manifest.embed_dim,
            keeps_originals=not request.discard_originals,
            thumbnail_side_px=checks.check_thumbnail_side(request.thumbnail_side_px, limits=limits),
            create_time_us=time.time_ns() // 1000,
        )
        info = await self._store.create(name, settings)
        return library_pb2.CreateLibraryResponse(library=library_message(info, served_digest=manifest.digest))

    async def DropLibrary(  # noqa: N802 - the name in the proto
        self, request: library_pb2.DropLibraryRequest, context: _Context
    ) -> library_pb2.DropLibraryResponse:
        """Remove a library; see library.proto."""
        # A damaged library may have a name that no new one can have.
        is_listed = request.library in await self._store.names()
        name = request.library if is_listed else self._check_name(request.library, current_call())
        return library_pb2.DropLibraryResponse(image_count=await self._store.drop(name))

    async def ListLibraries(  # noqa: N802 - the name in the proto
        self, request: library_pb2.ListLibrariesRequest, context: _Context
    ) -> library_pb2.ListLibrariesResponse:
        """List libraries; see library.proto."""
        digest = self._core.manifest.digest
        response = library_pb2.ListLibrariesResponse(model_digest=digest)
        for info in await self._store.infos():
            response.libraries.append(library_message(info, served_digest=digest))
        current_call().fields["libraries"] = len(response.libraries)
        return response

    async def AddImages(  # noqa: N802 - the name in the proto
        self, request_iterator: AsyncIterator[library_pb2.AddImagesRequest], context: _Context
    ) -> None:
        """Add images; see library.proto."""
        call, limits = current_call(), self._core.limits
        counts: Counter[str] = Counter(images=0, added=0, present=0, failed=0)
        async with ImageStream(request_iterator, call=call, max_age_s=self._core.max_stream_age_s) as stream:
            options = await self._resolve_add_options((await stream.read_first()).options, call)

            async def add(message: library_pb2.AddImagesRequest) -> library_pb2.AddImagesResponse:
                response = await self._adder.add(message.image, options, call)
                counts.update(["images", _OUTCOMES[response.WhichOneof("outcome") or "error"]])
                call.fields.update(counts)
                return response

            await stream.answer_images(
                add,
                write=context.write,
                max_items=_SHARES * limits.max_stream_images,
                max_bytes=limits.max_message_bytes,
            )

    async def SearchByText(  # noqa: N802 - the name in the proto
        self, request: library_pb2.SearchByTextRequest, context: _Context
    ) -> library_pb2.SearchByTextResponse:
        """Find images by words; see library.proto."""
        return await self._searches.by_text(request, current_call())

    async def SearchByImage(  # noqa: N802 - the name in the proto
        self, request: library_pb2.SearchByImageRequest, context: _Context
    ) -> library_pb2.SearchByImageResponse:
        """Find images by example; see library.proto."""
        return await self._searches.by_image(request, current_call())

    async def ListImages(  # noqa: N802 - the name in the proto
        self, request: library_pb2.ListImagesRequest, context: _Context
    ) -> library_pb2.ListImagesResponse:
        """List a page of images; see library.proto."""
        call = current_call()
        call.fields["library"] = request.library
        response = await list_images(request, core=self._core)
        call.fields["images"] = len(response.images)
        return response

    async def GetImage(  # noqa: N802 - the name in the proto
        self, request: library_pb2.GetImageRequest, context: _Context
    ) -> library_pb2.GetImageResponse:
        """Fetch an image; see library.proto."""
        table = await self._store.open(self._check_name(request.library, current_call()))
        sha256 = checks.check_hash(request.sha256, field="sha256")
        found = await table.fetch([sha256], checks.parse_parts(request.parts))
        if not found:
            raise checks.image_not_found(table.name, sha256)
        return library_pb2.GetImageResponse(image=image_message(found[0]))

    async def UpdateImages(  # noqa: N802 - the name in the proto
        self, request: library_pb2.UpdateImagesRequest, context: _Context
    ) -> library_pb2.UpdateImagesResponse:
        """Change what was said of images; see library.proto."""
        call, limits = current_call(), self._core.library_limits
        name = self._check_name(request.library, call)
        hashes, where = checks.check_selection(request, limits=limits)
        changes = checks.check_changes(request.changes, limits=limits)
        apply = partial(checks.apply_changes, changes, field="changes", limits=limits)
        done = await self._store.edit(name, apply, hashes=hashes, where=where)
        call.fields["changed"] = len(done.changed)
        return library_pb2.UpdateImagesResponse(matched_count=len(done.matched), changed_count=len(done.changed))

    async def DeleteImages(  # noqa: N802 - the name in the proto
        self, request: library_pb2.DeleteImagesRequest, context: _Context
    ) -> library_pb2.DeleteImagesResponse:
        """Delete images; see library.proto."""
        call = current_call()
        table = await self._store.open(self._check_name(request.library, call))
        hashes, where = checks.check_deletion(request, limits=self._core.library_limits)
        deleted = await table.delete(hashes=hashes, where=where)
        call.fields["deleted"] = deleted
        if deleted:
            self._store.changed(table)
        return library_pb2.DeleteImagesResponse(deleted_count=deleted)

    async def ReembedLibrary(  # noqa: N802 - the name in the proto
        self, request: library_pb2.ReembedLibraryRequest, context: _Context
    ) -> None:
        """Embed a library with the model that is served; see library.proto."""
        call = current_call()
        with self._store.reembedding(self._check_name(request.library, call)):
            await reembed(request, core=self._core, write=context.write, call=call)

    async def _resolve_add_options(self, message: library_pb2.AddImagesOptions, call: Call) -> AddOptions:
        name = self._check_name(message.library, call, field="options.library")
        fit, route = parse_image_options(message, path="options.")
        settings = await (await self._store.open(name)).settings()
        check_model(name, settings, digest=self._core.manifest.digest)
        return AddOptions(library=name, settings=settings, fit=fit, route=route, updates_present=message.update_present)

    def _check_name(self, name: str, call: Call, *, field: str = "library") -> str:
        """Return a library's name, checked, and note it for the log."""
        call.fields["library"] = checks.check_name(name, field=field, limits=self._core.library_limits)
        return name
