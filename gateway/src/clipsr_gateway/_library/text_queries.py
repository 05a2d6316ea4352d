"""Texts to search with: checked as those of EmbedTexts, embedded as labels are, and remembered."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clipsr.v1 import library_pb2, types_pb2
from clipsr_gateway._admission.controller import text_units
from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._backend.protocol import InferenceBackend
from clipsr_gateway._calls.call import Call
from clipsr_gateway._library.vocabulary import Vocabulary
from clipsr_gateway._limits import Limits
from clipsr_gateway._manifest import Manifest
from clipsr_gateway._texts.labels import TextQuery, resolve_texts
from clipsr_gateway._texts.run import run_texts
from clipsr_gateway.errors import InvalidRequestError

# 8 MiB of embeddings of 512 dimensions: people repeat their searches, with other filters or page after page.
_MAX_REMEMBERED = 4_096

# For programs; see QueryWarning in library.proto.
_NO_KNOWN_TOKEN = "QUERY_WITHOUT_KNOWN_TOKEN"


@dataclass(frozen=True, kw_only=True)
class EmbeddedText:
    """A text that was embedded.

    Attributes:
        embedding: [D] float32, L2-normalized.
        timing: waiting and computing; zero for a text that was remembered.
    """

    embedding: npt.NDArray[np.float32]
    timing: types_pb2.Timing


class TextQueries:
    """Embeds the texts of searches.

    Args:
        backend: what computes.
        manifest: what is served.
        limits: what a request may hold.
        slots: places in the backend.
        vocabulary: what the model's tokens stand for; None where that is not known.
    """

    def __init__(
        self,
        *,
        backend: InferenceBackend,
        manifest: Manifest,
        limits: Limits,
        slots: FairSlots,
        vocabulary: Vocabulary | None,
    ) -> None:
        self._backend = backend
        self._manifest = manifest
        self._limits = limits
        self._slots = slots
        self._vocabulary = vocabulary
        self._remembered: OrderedDict[bytes, npt.NDArray[np.float32]] = OrderedDict()

    def plan(self, request: library_pb2.SearchByTextRequest) -> TextQuery:
        """Check the text and the templates of a search.

        Raises:
            InvalidRequestError: with one violation for every field that is wrong.
        """
        templates = tuple(request.templates) or (self._manifest.default_templates,)
        try:
            return resolve_texts([request.text], templates, manifest=self._manifest, limits=self._limits)
        except InvalidRequestError as error:
            raise InvalidRequestError(
                [
                    replace(violation, field="text") if violation.field.startswith("texts") else violation
                    for violation in error.violations
                ]
            ) from error

    async def embed(self, query: TextQuery, call: Call) -> EmbeddedText:
        """Embed a checked text.

        Raises:
            BackendError, DeadlineExceededError, LimitedError: it was not embedded.
        """
        units = text_units(len(query.templates))
        key = _digest(query)
        known = self._remembered.get(key)
        if known is not None:
            self._remembered.move_to_end(key)
            call.admit(items=1, units=0)
            return EmbeddedText(embedding=known, timing=types_pb2.Timing())
        call.admit(items=1, units=units)
        began_s = time.perf_counter()
        rows = await run_texts(
            query.texts,
            templates=query.templates,
            embed_dim=self._manifest.embed_dim,
            backend=self._backend,
            slots=self._slots,
            call=call,
        )
        self._remember(key, rows[0].copy())
        inference_ms = call.stages_s["inference"][-1] * 1000
        queue_ms = max(0.0, (time.perf_counter() - began_s) * 1000 - inference_ms)
        return EmbeddedText(embedding=rows[0], timing=types_pb2.Timing(queue_ms=queue_ms, inference_ms=inference_ms))

    def warnings(self, text: str) -> list[library_pb2.QueryWarning]:
        """Return what is doubtful about a text."""
        if self._vocabulary is None or self._vocabulary.knows(text):
            return []
        message = (
            "This model's vocabulary has not a word of this text, only the bytes that it is written with, so what is "
            "found means little. Ask in English, or serve a multilingual checkpoint."
        )
        return [library_pb2.QueryWarning(reason=_NO_KNOWN_TOKEN, message=message)]

    def _remember(self, key: bytes, embedding: npt.NDArray[np.float32]) -> None:
        self._remembered[key] = embedding
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _digest(query: TextQuery) -> bytes:
    """Return 32 bytes for a query, which may have 128 KiB of templates itself."""
    return hashlib.sha256(repr((query.texts, query.templates)).encode()).digest()
