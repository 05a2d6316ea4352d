"""LibraryService: checks, embeddings on the ways of the other services, and the store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc.aio

from clipsr.v1 import library_pb2, library_pb2_grpc
from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._backend.protocol import InferenceBackend
from clipsr_gateway._calls.call import Call, CallRunner
from clipsr_gateway._images.embed import ImageEmbedder
from clipsr_gateway._images.plan import plan_options
from clipsr_gateway._library import checks
from clipsr_gateway._library.add import Adder, AddOptions
from clipsr_gateway._library.add_stream import AddStream
from clipsr_gateway._library.messages import image_message, library_message
from clipsr_gateway._library.pages import list_images
from clipsr_gateway._library.reembed_call import reembed
from clipsr_gateway._library.search import Searches
from clipsr_gateway._library.store.records import LibrarySettings
from clipsr_gateway._library.store.store import LibraryStore
from clipsr_gateway._library.store.table import check_model
from clipsr_gateway._library.text_queries import TextQueries
from clipsr_gateway._library.vocabulary import Vocabulary
from clipsr_gateway._limits import LibraryLimits, Limits
from clipsr_gateway._manifest import Manifest

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, kw_only=True)
class LibraryServiceParts:
    """What the service works with.

    Attributes:
        store: where the libraries are.
        backend: what computes.
        manifest: what is served.
        vocabulary: what the model's tokens stand for; None where that is not known.
        limits: what a request may hold.
        library_limits: what a library may hold.
        slots: places for requests in the backend, over all calls.
        gate: counts the calls.
        max_stream_age_s: how long a stream is read from.
    """

    store: LibraryStore
    backend: InferenceBackend
    manifest: Manifest
    vocabulary: Vocabulary | None
    limits: Limits
    library_limits: LibraryLimits
    slots: FairSlots
    gate: CallRunner
    max_stream_age_s: float


class LibraryService(library_pb2_grpc.LibraryServiceServicer):
    """Implements clipsr.v1.LibraryService.

    Args:
        parts: what it works with.
    """

    def __init__(self, parts: LibraryServiceParts) -> None:
        self._parts = parts
        self._store = parts.store
        self._gate = parts.gate
        self._embedder = ImageEmbedder(backend=parts.backend, manifest=parts.manifest, slots=parts.slots)
        self._adder = Adder(
            store=parts.store,
            embedder=self._embedder,
            manifest=parts.manifest,
            limits=parts.limits,
            library_limits=parts.library_limits,
        )
        self._searches = Searches(
            store=parts.store,
            embedder=self._embedder,
            texts=TextQueries(
                backend=parts.backend,
                manifest=parts.manifest,
                limits=parts.limits,
                slots=parts.slots,
                vocabulary=parts.vocabulary,
            ),
            manifest=parts.manifest,
            limits=parts.limits,
            library_limits=parts.library_limits,
        )

    async def CreateLibrary(  # noqa: N802 - the name in the proto
        self, request: library_pb2.CreateLibraryRequest, context: _Context
    ) -> library_pb2.CreateLibraryResponse:
        """Create a library; see library.proto."""
        return await self._gate.run("CreateLibrary", context, lambda call: self._create(request, call))

    async def DropLibrary(  # noqa: N802 - the name in the proto
        self, request: library_pb2.DropLibraryRequest, context: _Context
    ) -> library_pb2.DropLibraryResponse:
        """Remove a library; see library.proto."""
        return await self._gate.run("DropLibrary", context, lambda call: self._drop(request, call))

    async def ListLibraries(  # noqa: N802 - the name in the proto
        self, request: library_pb2.ListLibrariesRequest, context: _Context
    ) -> library_pb2.ListLibrariesResponse:
        """List libraries; see library.proto."""
        return await self._gate.run("ListLibraries", context, self._list_libraries)

    async def AddImages(  # noqa: N802 - the name in the proto
        self, request_iterator: AsyncIterator[library_pb2.AddImagesRequest], context: _Context
    ) -> None:
        """Add images; see library.proto."""

        async def answer(call: Call) -> None:
            async def prepare(message: library_pb2.AddImagesOptions) -> AddOptions:
                return await self._prepare_add(message, call)

            stream = AddStream(
                adder=self._adder,
                prepare=prepare,
                limits=self._parts.limits,
                draining=self._gate.draining,
                max_age_s=self._parts.max_stream_age_s,
                write=context.write,
                call=call,
            )
            await stream.answer(request_iterator)

        await self._gate.run("AddImages", context, answer)

    async def SearchByText(  # noqa: N802 - the name in the proto
        self, request: library_pb2.SearchByTextRequest, context: _Context
    ) -> library_pb2.SearchByTextResponse:
        """Find images by words; see library.proto."""
        return await self._gate.run("SearchByText", context, lambda call: self._searches.by_text(request, call))

    async def SearchByImage(  # noqa: N802 - the name in the proto
        self, request: library_pb2.SearchByImageRequest, context: _Context
    ) -> library_pb2.SearchByImageResponse:
        """Find images by example; see library.proto."""
        return await self._gate.run("SearchByImage", context, lambda call: self._searches.by_image(request, call))

    async def ListImages(  # noqa: N802 - the name in the proto
        self, request: library_pb2.ListImagesRequest, context: _Context
    ) -> library_pb2.ListImagesResponse:
        """List a page of images; see library.proto."""

        async def answer(call: Call) -> library_pb2.ListImagesResponse:
            call.fields["library"] = request.library
            response = await list_images(
                request, store=self._store, limits=self._parts.limits, library_limits=self._parts.library_limits
            )
            call.fields["images"] = len(response.images)
            return response

        return await self._gate.run("ListImages", context, answer)

    async def GetImage(  # noqa: N802 - the name in the proto
        self, request: library_pb2.GetImageRequest, context: _Context
    ) -> library_pb2.GetImageResponse:
        """Fetch an image; see library.proto."""
        return await self._gate.run("GetImage", context, lambda call: self._get(request, call))

    async def DeleteImages(  # noqa: N802 - the name in the proto
        self, request: library_pb2.DeleteImagesRequest, context: _Context
    ) -> library_pb2.DeleteImagesResponse:
        """Delete images; see library.proto."""
        return await self._gate.run("DeleteImages", context, lambda call: self._delete(request, call))

    async def ReembedLibrary(  # noqa: N802 - the name in the proto
        self, request: library_pb2.ReembedLibraryRequest, context: _Context
    ) -> None:
        """Embed a library anew; see library.proto."""

        async def answer(call: Call) -> None:
            with self._store.reembedding(self._name(request.library, call)):
                await reembed(
                    request,
                    store=self._store,
                    embedder=self._embedder,
                    manifest=self._parts.manifest,
                    limits=self._parts.limits,
                    write=context.write,
                    draining=self._gate.draining,
                    max_age_s=self._parts.max_stream_age_s,
                    call=call,
                )

        await self._gate.run("ReembedLibrary", context, answer)

    async def _create(self, request: library_pb2.CreateLibraryRequest, call: Call) -> library_pb2.CreateLibraryResponse:
        name = self._name(request.name, call, field="name")
        settings = LibrarySettings(
            model_digest=self._parts.manifest.digest,
            embed_dim=self._parts.manifest.embed_dim,
            keeps_originals=not request.discard_originals,
            thumbnail_side_px=checks.check_thumbnail_side(request.thumbnail_side_px, limits=self._parts.library_limits),
            create_time_us=time.time_ns() // 1000,
        )
        info = await self._store.create(name, settings)
        library = library_message(info, served_digest=self._parts.manifest.digest)
        return library_pb2.CreateLibraryResponse(library=library)

    async def _drop(self, request: library_pb2.DropLibraryRequest, call: Call) -> library_pb2.DropLibraryResponse:
        # A damaged library may have a name that no new one can have.
        is_listed = request.library in await self._store.names()
        name = request.library if is_listed else self._name(request.library, call)
        return library_pb2.DropLibraryResponse(image_count=await self._store.drop(name))

    async def _list_libraries(self, call: Call) -> library_pb2.ListLibrariesResponse:
        digest = self._parts.manifest.digest
        response = library_pb2.ListLibrariesResponse(model_digest=digest)
        for info in await self._store.infos():
            response.libraries.append(library_message(info, served_digest=digest))
        call.fields["libraries"] = len(response.libraries)
        return response

    async def _prepare_add(self, message: library_pb2.AddImagesOptions, call: Call) -> AddOptions:
        name = self._name(message.library, call, field="options.library")
        fit, route = plan_options(message, path="options.")
        settings = await (await self._store.open(name)).settings()
        check_model(name, settings, digest=self._parts.manifest.digest)
        return AddOptions(library=name, settings=settings, fit=fit, route=route)

    async def _get(self, request: library_pb2.GetImageRequest, call: Call) -> library_pb2.GetImageResponse:
        table = await self._store.open(self._name(request.library, call))
        sha256 = checks.check_hash(request.sha256, field="sha256")
        found = await table.fetch([sha256], checks.parts_of(request.parts))
        if not found:
            raise checks.image_not_found(table.name, sha256)
        return library_pb2.GetImageResponse(image=image_message(found[0]))

    async def _delete(self, request: library_pb2.DeleteImagesRequest, call: Call) -> library_pb2.DeleteImagesResponse:
        table = await self._store.open(self._name(request.library, call))
        hashes, where = checks.check_selection(request, limits=self._parts.library_limits)
        deleted = await table.delete(hashes=hashes, where=where)
        call.fields["deleted"] = deleted
        self._store.changed(table)
        return library_pb2.DeleteImagesResponse(deleted_count=deleted)

    def _name(self, name: str, call: Call, *, field: str = "library") -> str:
        """Return a library's name, checked, and note it for the log."""
        call.fields["library"] = checks.check_name(name, field=field, limits=self._parts.library_limits)
        return name
