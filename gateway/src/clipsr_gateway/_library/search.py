"""Searches by words and by example."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from clipsr.v1 import library_pb2, types_pb2
from clipsr_gateway._calls.call import Call
from clipsr_gateway._images.embed import EmbeddedImage, embed_image
from clipsr_gateway._images.plan import parse_image_options, plan_image
from clipsr_gateway._library.checks import SearchPlan, check_hash, check_name, image_not_found, refuse, search_plan
from clipsr_gateway._library.core import LibraryCore
from clipsr_gateway._library.messages import hit_message
from clipsr_gateway._library.store.records import Found, Parts, content_hash
from clipsr_gateway._library.store.table import LibraryTable, check_model
from clipsr_gateway._library.text_queries import TextQueries
from clipsr_gateway._offload import run_off_loop
from clipsr_gateway.errors import InvalidRequestError, Violation


class Searches:
    """Answers SearchByText and SearchByImage.

    Args:
        core: what the service works with.
        texts: embeds texts to search with.
    """

    def __init__(self, core: LibraryCore, *, texts: TextQueries) -> None:
        self._core = core
        self._texts = texts

    async def by_text(self, request: library_pb2.SearchByTextRequest, call: Call) -> library_pb2.SearchByTextResponse:
        """Find the images that fit a text best.

        Raises:
            GatewayError: as library.proto says.
        """
        query = self._texts.plan(request)
        plan = search_plan(request.options, limits=self._core.library_limits)
        table = await self._open(request.library, call)
        text = await self._texts.embed(query, call)
        hits, search_ms = await self._find(table, text.embeddings[0], plan, call)
        return library_pb2.SearchByTextResponse(
            hits=hits,
            warnings=self._texts.warnings(query, text),
            timing=text.timing,
            search_ms=search_ms,
            model_digest=self._core.manifest.digest,
        )

    async def by_image(
        self, request: library_pb2.SearchByImageRequest, call: Call
    ) -> library_pb2.SearchByImageResponse:
        """Find the images that are most like an image.

        Raises:
            GatewayError: as library.proto says.
        """
        plan = search_plan(request.options, limits=self._core.library_limits)
        table = await self._open(request.library, call)
        timing: types_pb2.Timing | None = None
        match request.WhichOneof("query"):
            case "sha256":
                embedding = await _stored_embedding(table, request.sha256)
                sha256 = request.sha256
            case "image":
                embedded = await self._embed(request, call)
                embedding, timing = embedded.embedding, embedded.timing
                sha256 = await run_off_loop(len(request.image.content), content_hash, request.image.content)
            case _:
                raise refuse("query", "QUERY_EMPTY", "Set image or sha256: what to search with.")
        exclude_sha256 = sha256 if request.exclude_query else ""
        hits, search_ms = await self._find(table, embedding, plan, call, exclude_sha256=exclude_sha256)
        return library_pb2.SearchByImageResponse(
            hits=hits, timing=timing, search_ms=search_ms, model_digest=self._core.manifest.digest
        )

    async def _open(self, name: str, call: Call) -> LibraryTable:
        call.fields["library"] = check_name(name, field="library", limits=self._core.library_limits)
        table = await self._core.store.open(name)
        check_model(name, await table.settings(), digest=self._core.manifest.digest)
        return table

    async def _find(
        self,
        table: LibraryTable,
        embedding: npt.NDArray[np.float32],
        plan: SearchPlan,
        call: Call,
        *,
        exclude_sha256: str = "",
    ) -> tuple[list[library_pb2.SearchHit], float]:
        began_s = time.perf_counter()
        with call.stage("search"):
            found = await table.find(
                embedding,
                top_k=plan.top_k,
                where=plan.where,
                parts=replace(plan.parts, original=False),
                is_exact=plan.is_exact,
                exclude_sha256=exclude_sha256,
            )
            found = [one for one in found if one.cosine >= plan.min_cosine]
            if plan.parts.original:
                found = await self._with_originals(table, found)
        search_ms = (time.perf_counter() - began_s) * 1000
        hits = [hit_message(one) for one in found]
        call.fields["hits"] = len(hits)
        self._check_size(len(hits), sum(hit.ByteSize() for hit in hits))
        return hits, search_ms

    async def _with_originals(self, table: LibraryTable, found: Sequence[Found]) -> list[Found]:
        """Return what was found with the files, which are read only if a message holds them: a thousand are a GiB."""
        kept = [one.record for one in found if one.record.has_original]
        self._check_size(len(found), sum(record.size_bytes for record in kept))
        read = await table.fetch([record.sha256 for record in kept], Parts(original=True))
        originals = {record.sha256: record.original for record in read}  # one deleted in this moment is not among them
        return [replace(one, record=replace(one.record, original=originals.get(one.record.sha256))) for one in found]

    def _check_size(self, count: int, total_bytes: int) -> None:
        if total_bytes > self._core.limits.max_message_bytes * 15 // 16:  # room for the rest of the answer
            message = (
                f"{count:,} images with all that is asked for take {total_bytes:,} bytes; a message holds "
                f"{self._core.limits.max_message_bytes:,}. Set a smaller top_k, or ask for fewer parts."
            )
            raise refuse("options.top_k", "RESPONSE_TOO_LARGE", message)

    async def _embed(self, request: library_pb2.SearchByImageRequest, call: Call) -> EmbeddedImage:
        fit, forced = parse_image_options(request, path="")
        image = await plan_image(request.image.content, field="image.content", forced=forced, core=self._core)
        if isinstance(image, Violation):
            raise InvalidRequestError([image])
        call.admit(items=1, units=image.units())
        return await embed_image(image, fit=fit, core=self._core, call=call)


async def _stored_embedding(table: LibraryTable, sha256: str) -> npt.NDArray[np.float32]:
    found = await table.fetch([check_hash(sha256, field="sha256")], Parts(embedding=True))
    if not found or found[0].embedding is None:
        raise image_not_found(table.name, sha256)
    return found[0].embedding
