"""Embeds some texts in one request to the backend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipsr.v1 import types_pb2
from clipsr_gateway._admission.controller import text_units
from clipsr_gateway._backend.core import Core
from clipsr_gateway._backend.protocol import embedding_fault
from clipsr_gateway._calls.call import Call
from clipsr_gateway._texts.labels import TextQuery
from clipsr_gateway.errors import BackendFaultError


@dataclass(frozen=True, kw_only=True)
class EmbeddedTexts:
    """Texts that were embedded together.

    Attributes:
        embeddings: [N, D] float32, L2-normalized.
        is_cut: [N] whether the text encoder does not see all of a text.
        timing: waiting and computing.
    """

    embeddings: npt.NDArray[np.float32]
    is_cut: npt.NDArray[np.bool_]
    timing: types_pb2.Timing


async def embed_texts(query: TextQuery, *, core: Core, call: Call) -> EmbeddedTexts:
    """Embed texts in one request to the backend once there is a slot.

    Raises:
        BackendError, DeadlineExceededError: none of the texts is embedded.
    """
    units = text_units(len(query.texts) * len(query.templates))
    async with call.infer_in_turn(units, nouns="texts", is_bounded=True) as turn:
        embedded = await core.backend.embed_texts(
            query.texts, templates=query.templates, request_id=call.request_id, timeout_s=turn.timeout_s
        )
    if fault := embedding_fault(embedded.values, (len(query.texts), core.manifest.embed_dim)):
        raise BackendFaultError(fault)
    if embedded.is_cut.shape != (len(query.texts),):
        raise BackendFaultError(
            f"{len(query.texts)} texts were sent, but text_is_cut has shape {embedded.is_cut.shape}"
        )
    return EmbeddedTexts(embeddings=embedded.values, is_cut=embedded.is_cut, timing=turn.timing)
