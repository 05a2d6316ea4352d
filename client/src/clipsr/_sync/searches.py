# Written by scripts/unasync.py from _async/searches.py: change that one.
"""Searches of a library of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from clipsr import _images
from clipsr._codecs import library_requests, library_responses
from clipsr._codecs.arguments import as_text
from clipsr._library_types import ImageFilter, SearchResult
from clipsr._sync.channel import run_blocking
from clipsr._sync.connection import Connection
from clipsr._types import Fit, ImageSource, Route
from clipsr.v1 import library_pb2_grpc


class Searches:
    """The part of a library that finds images."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = as_text("name", name)
        self._call = connection.call
        self._retry_refused = dataclasses.replace(connection.retry, is_repeatable=False)

    @property
    def name(self) -> str:
        """The name that was given."""
        return self._name

    def search_text(
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
        return library_responses.decode_found(self._call(self._stub.SearchByText, request, timeout_s))

    def search_image(
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
            None if image is None else run_blocking(_images.read_image, image),
            sha256=sha256,
            fit=fit,
            route=route,
            exclude_query=exclude_query,
            options=options,
        )
        return library_responses.decode_found(self._call(self._stub.SearchByImage, request, timeout_s))

    @property
    def _stub(self) -> Any:
        return self._connection.stub(library_pb2_grpc.LibraryServiceStub)
