"""A library of images."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence

from clipsr import _images
from clipsr._async.searches import AsyncSearches
from clipsr._async.service import list_libraries
from clipsr._codecs import library_requests, library_responses
from clipsr._codecs.library_requests import AddSource
from clipsr._library_types import (
    AddOutcome,
    ImageChanges,
    ImageFilter,
    ImagePage,
    LibraryInfo,
    ReembedProgress,
    StoredImage,
    UpdateResult,
)
from clipsr._rpc.window import ADD_READ_AHEAD
from clipsr._types import FailedImage, Fit, Route
from clipsr.v1 import library_pb2


class AsyncLibrary(AsyncSearches):
    """Images that the service keeps with their embeddings, under a name; Client.library() makes these.

    Nothing is asked before a method is called. AsyncLibrary has the same methods for asyncio.

    Errors of all methods, beside those of Client: NotFoundError where there is no such library, ModelMismatchError
    where it holds embeddings of another model than the one that is served (reembed() cures it), ServiceError with the
    reason where the service keeps no libraries or its storage is full.
    """

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
        update_present: bool = False,
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
            update_present: gives images that the library has already the tags and values that they are added with now,
                besides those that they have, and the source unless it is empty. Otherwise PresentImage.differs says
                where that matters.
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
        codec = library_requests.add_codec(self._name, fit=fit, route=route, update_present=update_present)
        return self._connection.stream(
            lambda: self._stub.AddImages,
            _images.as_iterable(images),
            codec,
            read_ahead=read_ahead,
            idle_timeout_s=idle_timeout_s,
        )

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

    async def update_images(
        self,
        hashes: Sequence[str] = (),
        *,
        changes: ImageChanges,
        where: ImageFilter | None = None,
        timeout_s: float | None = None,
    ) -> UpdateResult:
        """Change the source, tags and metadata of images.

        The images of a request change all together or not at all, and repeating one changes nothing more. What others
        change or delete at the same moment stays changed or deleted.

        Args:
            hashes: their names, sha256; those that the library does not have are passed over. More than a thousand go
                in several requests.
            changes: what changes; at least one thing.
            where: or all that this filter lets through; an empty one means every image.
            timeout_s: deadline of each request, in seconds; None takes the client's.

        Raises:
            InvalidRequestError: hashes and a filter, nothing to change, or an image would have too many tags or values.
        """
        matched = changed = 0
        for request in library_requests.encode_updates(self._name, hashes, where=where, changes=changes):
            response: library_pb2.UpdateImagesResponse = await self._call(self._stub.UpdateImages, request, timeout_s)
            matched += response.matched_count
            changed += response.changed_count
        return UpdateResult(matched_count=matched, changed_count=changed)

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
        request = library_requests.encode_reembedding(self._name, drop_without_original=drop_without_original)
        follow = self._connection.stream_responses(
            self._stub.ReembedLibrary, request, progress=library_responses.measure_progress, timeout_s=timeout_s
        )
        async with contextlib.aclosing(follow) as answers:
            async for response in answers:
                yield library_responses.decode_progress(response)
