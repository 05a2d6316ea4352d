"""Texts to search with: checked as those of EmbedTexts, embedded as labels are, and remembered."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from cachetools import LRUCache

from clipsr.v1 import library_pb2, types_pb2
from clipsr_gateway._admission.controller import text_units
from clipsr_gateway._backend.core import Core
from clipsr_gateway._calls.call import Call
from clipsr_gateway._texts.embed import EmbeddedTexts, embed_texts
from clipsr_gateway._texts.labels import TextQuery, resolve_texts
from clipsr_gateway._texts.warnings import cut_warnings, unknown_warnings
from clipsr_gateway.errors import InvalidRequestError

# 8 MiB of embeddings of 512 dimensions: people repeat their searches, with other filters or page after page.
_MAX_REMEMBERED = 4_096


class TextQueries:
    """Embeds the texts of searches.

    Args:
        core: what the service works with.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._remembered: LRUCache[bytes, EmbeddedTexts] = LRUCache(_MAX_REMEMBERED)

    def plan(self, request: library_pb2.SearchByTextRequest) -> TextQuery:
        """Check the text and the templates of a search.

        Raises:
            InvalidRequestError: with one violation for every field that is wrong.
        """
        templates = tuple(request.templates) or (self._core.manifest.default_templates,)
        try:
            return resolve_texts([request.text], templates, manifest=self._core.manifest, limits=self._core.limits)
        except InvalidRequestError as error:
            raise InvalidRequestError(
                [
                    replace(violation, field="text") if violation.field.startswith("texts") else violation
                    for violation in error.violations
                ]
            ) from error

    async def embed(self, query: TextQuery, call: Call) -> EmbeddedTexts:
        """Embed a checked text; the timing of a remembered one is zero.

        Raises:
            BackendError, DeadlineExceededError, LimitedError: it was not embedded.
        """
        key = _digest(query)
        known = self._remembered.get(key)
        if known is not None:
            call.admit(items=1, units=0)
            return known
        call.admit(items=1, units=text_units(len(query.templates)))
        embedded = await embed_texts(query, core=self._core, call=call)
        self._remembered[key] = replace(
            embedded, embeddings=embedded.embeddings.copy(), is_cut=embedded.is_cut.copy(), timing=types_pb2.Timing()
        )
        return embedded

    def warnings(self, query: TextQuery, embedded: EmbeddedTexts) -> list[types_pb2.Warning]:
        """Return what is doubtful about a text."""
        return [
            *unknown_warnings(query.texts, self._core.vocabulary, noun="query", field="text"),
            *cut_warnings(
                query.texts,
                embedded.is_cut,
                noun="query",
                field="text",
                context_length=self._core.manifest.context_length,
            ),
        ]


def _digest(query: TextQuery) -> bytes:
    """Return 32 bytes for a query, which may have 128 KiB of templates itself."""
    return hashlib.sha256(repr((query.texts, query.templates)).encode()).digest()
