"""A library of images."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from typing import Any

from clipsr import _images
from clipsr._async.channel import run_blocking
from clipsr._async.connection import AsyncConnection
from clipsr._async.service import list_libraries
from clipsr._codecs import library_requests, library_responses
from clipsr._codecs.arguments import as_text
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
    """Images that the service keeps with their embeddings, under a name; Client.library() makes these.

    Nothing is asked before a method is called. AsyncLibrary has the same methods for asyncio.

    Errors of all methods, beside those of Client: NotFoundError where there is no such library, ModelMismatchError
    where it holds embeddings of another model than the one that is served (reembed() cures it), ServiceError with the
    reason where the service keeps no libraries or its storage is full.
    """

    def __init__(self, connection: AsyncConnection, name: str) -> None:
        self._connection = connection
        self._name = as_text("name", name)
        self._call = connection.call
        self._retry_refused = dataclasses.replace(connection.retry, is_repeatable=False)

    @property
    def name(self) -> str:
        """The name that was given."""
        return self._name

    async def create(
        self, *, keep_originals: bool = True, thumbnail_side_px: int = 0, timeout_s: float | None = None
    ) -> LibraryInfo:
        """Create the library, empty, for the model that is served.

        Args:
            keep_originals: keeps the files of images, not only thumbnails and vectors; without them the library cannot
                be embedded anew when the model changes, nor its images exported.
            thumbnail_side_px: longest side of thumbnails; 0 is the service's choice.
            timeout_s: deadline, in seconds; None takes the client's.

        Raises:
            AlreadyExistsError: there is one of that name.
            InvalidRequestError: the name or an option is wrong.
        """
        request = library_requests.encode_create(
            self._name, keep_originals=keep_originals, thumbnail_side_px=thumbnail_side_px
        )
        response: library_pb2.CreateLibraryResponse = await self._call(
            self._stub.CreateLibrary, request, timeout_s, retry=self._retry_refused
        )
        return library_responses.decode_library(response.library)

    async def drop(self, *, timeout_s: float | None = None) -> int:
        """Remove the library with everything in it; return how many images that were.

        Args:
            timeout_s: deadline, in seconds; None takes the client's.
        """
        request = library_pb2.DropLibraryRequest(library=self._name)
        response: library_pb2.DropLibraryResponse = await self._call(
            self._stub.DropLibrary, request, timeout_s, retry=self._retry_refused
        )
        return response.image_count

    async def info(self, *, timeout_s: float | None = None) -> LibraryInfo:
        """Describe the library.

        Args:
            timeout_s: deadline, in seconds; None takes the client's.
        """
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
        """Add any number of images over one connection, in memory that does not grow with them.

        An image is its bytes: the same bytes are one image of a library. So when the connection fails, what was not
        answered is sent again over a new one, and adding the same images once more completes what was interrupted.
        Reading ahead and closing are as with Client.classify_stream().

        Args:
            images: NewImages, or image files as of Client.classify(), whose path becomes their source; of any length.
                A file that cannot be read fails alone, as does an image for which there is a FailedImage already.
            fit: how images that are not square are fitted.
            route: the path to the image encoder.
            read_ahead: images in memory at once, at least 1.
            idle_timeout_s: longest time without any answer while images wait for one, in seconds; None takes the
                client's timeout_s.

        Returns:
            An iterator over (place among the images, from 0; outcome), as the answers come: not in order. An AddedImage
            or PresentImage is in the library for good.

        Raises:
            ClipsrError: from the iterator, once `retries` are used up; what came before it stands.
            TypeError: `images` is a single one, or holds what is no image.
        """
        codec = library_requests.add_codec(self._name, fit=fit, route=route)
        return self._connection.stream(
            lambda: self._stub.AddImages,
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
        """Find the images that fit a text best.

        Args:
            text: what they shall show.
            templates: prompts with one "{}" where the text goes, or one published set with '@'; empty leaves them to
                the service.
            top_k: images to return.
            where: which images are searched; None searches all.
            min_cosine: least cosine of an image to return, in [-1, 1].
            is_exact: compares with every image instead of asking the index: slower, and misses nothing.
            return_thumbnail: sends their thumbnails along.
            return_original: sends their files along, where they are kept.
            return_embedding: sends their embeddings along.
            timeout_s: deadline, in seconds; None takes the client's.

        Raises:
            InvalidRequestError: the text, templates or an option is wrong.
        """
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
        return library_responses.decode_found(await self._call(self._stub.SearchByText, request, timeout_s))

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
        """Find the images that are most like one.

        Args:
            image: as one of Client.classify()'s; or give `sha256`.
            sha256: of an image of this library.
            fit: how the image file is fitted, if it is not square.
            route: the path to the image encoder.
            exclude_query: leaves the very image that is searched with out of the hits.
            top_k: as search_text()'s; so are the options down to `return_embedding`.
            where: which images are searched.
            min_cosine: least cosine of an image to return.
            is_exact: compares with every image.
            return_thumbnail: sends their thumbnails along.
            return_original: sends their files along.
            return_embedding: sends their embeddings along.
            timeout_s: deadline, in seconds; None takes the client's.

        Raises:
            InvalidRequestError: the image or an option is wrong, or there is not exactly one of image and sha256.
            OSError: the file cannot be read.
        """
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
            None if image is None else await run_blocking(_images.read_image, image),
            sha256=sha256,
            fit=fit,
            route=route,
            exclude_query=exclude_query,
            options=options,
        )
        return library_responses.decode_found(await self._call(self._stub.SearchByImage, request, timeout_s))

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
        """Return a page of images, in the order of their time.

        Args:
            page_token: next_page_token of the page before, with the same filter and order; empty for the first page.
            where: which images are listed; None lists all.
            page_size: images of the page; 0 is the service's choice. A page holds fewer where more would not fit one
                message.
            newest_first: begins with the image that was added last.
            return_thumbnail: sends their thumbnails along.
            return_original: sends their files along, where they are kept.
            return_embedding: sends their embeddings along.
            timeout_s: deadline, in seconds; None takes the client's.

        Raises:
            InvalidRequestError: the token or an option is wrong.
        """
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
        return library_responses.decode_page(await self._call(self._stub.ListImages, request, timeout_s))

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
        """Yield all images in the order of their time, a page at a time.

        Images that are added or deleted meanwhile never make it yield another one twice or miss it.

        Args:
            where: as list_page()'s; so are the other options.
            page_size: images in memory at once.
            newest_first: begins with the image that was added last.
            return_thumbnail: sends their thumbnails along.
            return_original: sends their files along.
            return_embedding: sends their embeddings along.
            timeout_s: deadline of each page, in seconds; None takes the client's.
        """
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
        """Fetch one image.

        Args:
            sha256: its name within the library.
            return_thumbnail: sends its thumbnail along.
            return_original: sends its file along, where it is kept.
            return_embedding: sends its embedding along.
            timeout_s: deadline, in seconds; None takes the client's.

        Raises:
            NotFoundError: the library does not have it.
        """
        parts = library_requests.encode_parts(
            thumbnail=return_thumbnail, original=return_original, embedding=return_embedding
        )
        request = library_requests.encode_get(self._name, sha256, parts=parts)
        response: library_pb2.GetImageResponse = await self._call(self._stub.GetImage, request, timeout_s)
        return library_responses.decode_image(response.image)

    async def delete_images(
        self, hashes: Sequence[str] = (), *, where: ImageFilter | None = None, timeout_s: float | None = None
    ) -> int:
        """Delete images and return how many.

        Args:
            hashes: their names, sha256; those that the library does not have are passed over. Many go in several
                requests.
            where: or all that this filter lets through; it must have a condition. drop() removes everything.
            timeout_s: deadline of each request, in seconds; None takes the client's.

        Raises:
            InvalidRequestError: hashes and a filter, or an empty filter.
        """
        count = 0
        for request in library_requests.encode_deletions(self._name, hashes, where=where):
            response: library_pb2.DeleteImagesResponse = await self._call(
                self._stub.DeleteImages, request, timeout_s, retry=self._retry_refused
            )
            count += response.deleted_count
        return count

    async def reembed(
        self, *, drop_without_original: bool = False, timeout_s: float | None = None
    ) -> AsyncIterator[ReembedProgress]:
        """Embed all images with the model that is served, so that the library can be searched and added to again.

        It takes about as long as adding them did. Until the last progress the library stays as it is; then it changes
        at once. What was embedded before a lost connection, or before the iterator was closed, is kept, and the next
        call goes on from there.

        Args:
            drop_without_original: images whose files were not kept leave the library instead of failing the call.
            timeout_s: deadline of the whole, in seconds; None sets none.

        Raises:
            InvalidRequestError: the files of some images were not kept; from the iterator.
        """
        request = library_pb2.ReembedLibraryRequest(library=self._name, drop_without_original=drop_without_original)
        follow = self._connection.stream_responses(
            self._stub.ReembedLibrary, request, progress=library_responses.measure_progress, timeout_s=timeout_s
        )
        async with contextlib.aclosing(follow) as answers:
            async for response in answers:
                yield library_responses.decode_progress(response)

    @property
    def _stub(self) -> Any:
        return self._connection.stub(library_pb2_grpc.LibraryServiceStub)
