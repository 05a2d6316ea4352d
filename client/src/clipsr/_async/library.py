"""A library of images, for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any

from clipsr import _images
from clipsr._async.connection import AsyncConnection
from clipsr._codecs import library_requests, library_responses
from clipsr._codecs.library_requests import AddSource
from clipsr._library_types import (
    AddOutcome,
    ImageFilter,
    ImagePage,
    LibraryInfo,
    ReembedProgress,
    SearchResult,
    StoredImage,
)
from clipsr._rpc.window import ADD_READ_AHEAD
from clipsr._types import FailedImage, Fit, ImageSource, Route
from clipsr.v1 import library_pb2, library_pb2_grpc


class AsyncLibrary:
    """Images that the service keeps with their embeddings, under a name: Library's methods, awaited.

    AsyncClient.library() makes these.
    """

    def __init__(self, connection: AsyncConnection, name: str) -> None:
        self._connection = connection
        self._name = name
        self._call = connection.call
        self._retry_refused = dataclasses.replace(connection.retry, is_repeatable=False)

    @property
    def name(self) -> str:
        """The name that was given."""
        return self._name

    async def create(
        self, *, keep_originals: bool = True, thumbnail_side_px: int = 0, timeout_s: float | None = None
    ) -> LibraryInfo:
        """Create the library; as Library.create()."""
        request = library_requests.encode_create(
            self._name, keep_originals=keep_originals, thumbnail_side_px=thumbnail_side_px
        )
        response: library_pb2.CreateLibraryResponse = await self._call(
            self._stub().CreateLibrary, request, timeout_s, retry=self._retry_refused
        )
        return library_responses.decode_library(response.library)

    async def drop(self, *, timeout_s: float | None = None) -> int:
        """Remove the library with everything in it; as Library.drop()."""
        request = library_pb2.DropLibraryRequest(library=self._name)
        response: library_pb2.DropLibraryResponse = await self._call(
            self._stub().DropLibrary, request, timeout_s, retry=self._retry_refused
        )
        return response.image_count

    async def info(self, *, timeout_s: float | None = None) -> LibraryInfo:
        """Describe the library; as Library.info()."""
        libraries = await list_libraries(self._connection, timeout_s=timeout_s)
        return library_responses.pick_library(libraries, self._name)

    def add(
        self,
        images: Iterable[AddSource | FailedImage] | AsyncIterable[AddSource | FailedImage],
        *,
        fit: Fit = "auto",
        route: Route = "auto",
        read_ahead: int = ADD_READ_AHEAD,
        idle_timeout_s: float | None = None,
    ) -> AsyncIterator[AddOutcome]:
        """Add any number of images; as Library.add(), for `async for`.

        `images` and how to end early are as AsyncClient.classify_stream()'s.
        """
        codec = library_requests.add_codec(self._name, fit=fit, route=route)
        return self._connection.stream(
            lambda: self._stub().AddImages,
            _images.as_iterable(images),
            codec,
            read_ahead=read_ahead,
            idle_timeout_s=idle_timeout_s,
        )

    async def search_text(
        self,
        text: str,
        *,
        templates: Sequence[str] = (),
        top_k: int = 10,
        where: ImageFilter | None = None,
        min_cosine: float | None = None,
        is_exact: bool = False,
        return_thumbnail: bool = False,
        return_original: bool = False,
        return_embedding: bool = False,
        timeout_s: float | None = None,
    ) -> SearchResult:
        """Find the images that fit a text best; as Library.search_text()."""
        options = library_requests.encode_search_options(
            top_k=top_k,
            where=where,
            parts=library_requests.encode_parts(
                thumbnail=return_thumbnail, original=return_original, embedding=return_embedding
            ),
            min_cosine=min_cosine,
            is_exact=is_exact,
        )
        request = library_requests.encode_search_text(self._name, text, templates=templates, options=options)
        return library_responses.decode_found(await self._call(self._stub().SearchByText, request, timeout_s))

    async def search_image(
        self,
        image: ImageSource | None = None,
        *,
        sha256: str | None = None,
        fit: Fit = "auto",
        route: Route = "auto",
        exclude_query: bool = False,
        top_k: int = 10,
        where: ImageFilter | None = None,
        min_cosine: float | None = None,
        is_exact: bool = False,
        return_thumbnail: bool = False,
        return_original: bool = False,
        return_embedding: bool = False,
        timeout_s: float | None = None,
    ) -> SearchResult:
        """Find the images that are most like one; as Library.search_image(), but the file is read in a thread."""
        options = library_requests.encode_search_options(
            top_k=top_k,
            where=where,
            parts=library_requests.encode_parts(
                thumbnail=return_thumbnail, original=return_original, embedding=return_embedding
            ),
            min_cosine=min_cosine,
            is_exact=is_exact,
        )
        request = library_requests.encode_search_image(
            self._name,
            None if image is None else await asyncio.to_thread(_images.read_image, image),
            sha256=sha256,
            fit=fit,
            route=route,
            exclude_query=exclude_query,
            options=options,
        )
        return library_responses.decode_found(await self._call(self._stub().SearchByImage, request, timeout_s))

    async def list_page(
        self,
        page_token: str = "",
        *,
        where: ImageFilter | None = None,
        page_size: int = 0,
        newest_first: bool = False,
        return_thumbnail: bool = False,
        return_original: bool = False,
        return_embedding: bool = False,
        timeout_s: float | None = None,
    ) -> ImagePage:
        """Return a page of images; as Library.list_page()."""
        parts = library_requests.encode_parts(
            thumbnail=return_thumbnail, original=return_original, embedding=return_embedding
        )
        request = library_requests.encode_list(
            self._name,
            where=where,
            page_size=page_size,
            page_token=page_token,
            newest_first=newest_first,
            parts=parts,
        )
        return library_responses.decode_page(await self._call(self._stub().ListImages, request, timeout_s))

    async def list_images(
        self,
        *,
        where: ImageFilter | None = None,
        page_size: int = 0,
        newest_first: bool = False,
        return_thumbnail: bool = False,
        return_original: bool = False,
        return_embedding: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[StoredImage]:
        """Yield all images, a page at a time; as Library.list_images(), for `async for`."""
        page_token = ""
        while True:
            page = await self.list_page(
                page_token,
                where=where,
                page_size=page_size,
                newest_first=newest_first,
                return_thumbnail=return_thumbnail,
                return_original=return_original,
                return_embedding=return_embedding,
                timeout_s=timeout_s,
            )
            for image in page.images:
                yield image
            if not (page_token := page.next_page_token):
                return

    async def get_image(
        self,
        sha256: str,
        *,
        return_thumbnail: bool = False,
        return_original: bool = False,
        return_embedding: bool = False,
        timeout_s: float | None = None,
    ) -> StoredImage:
        """Fetch one image; as Library.get_image()."""
        parts = library_requests.encode_parts(
            thumbnail=return_thumbnail, original=return_original, embedding=return_embedding
        )
        request = library_requests.encode_get(self._name, sha256, parts=parts)
        response: library_pb2.GetImageResponse = await self._call(self._stub().GetImage, request, timeout_s)
        return library_responses.decode_image(response.image)

    async def delete_images(
        self, hashes: Sequence[str] = (), *, where: ImageFilter | None = None, timeout_s: float | None = None
    ) -> int:
        """Delete images and return how many; as Library.delete_images()."""
        count = 0
        for request in library_requests.encode_deletions(self._name, hashes, where=where):
            response: library_pb2.DeleteImagesResponse = await self._call(
                self._stub().DeleteImages, request, timeout_s, retry=self._retry_refused
            )
            count += response.deleted_count
        return count

    async def reembed(
        self, *, drop_without_original: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[ReembedProgress]:
        """Embed all images with the model that is served; as Library.reembed(), for `async for`."""
        request = library_pb2.ReembedLibraryRequest(library=self._name, drop_without_original=drop_without_original)
        follow = self._connection.stream_responses(
            self._stub().ReembedLibrary, request, progress=library_responses.measure_progress, timeout_s=timeout_s
        )
        async with contextlib.aclosing(follow) as answers:
            async for response in answers:
                yield library_responses.decode_progress(response)

    def _stub(self) -> Any:
        return library_pb2_grpc.LibraryServiceStub(self._connection.channel)


async def list_libraries(connection: AsyncConnection, *, timeout_s: float | None) -> list[LibraryInfo]:
    """Return all libraries of a service; AsyncClient.list_libraries()."""
    stub: Any = library_pb2_grpc.LibraryServiceStub(connection.channel)
    request = library_pb2.ListLibrariesRequest()
    return library_responses.decode_libraries(await connection.call(stub.ListLibraries, request, timeout_s))
