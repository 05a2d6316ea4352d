"""Makes the backend know long label lists before images are compared with them, a few labels at a time.

The model `similarity` encodes the labels that it does not know while everybody else's requests to it wait. Ten thousand
at once take it many seconds; in portions, other requests pass in between.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from clipsr_gateway._backend.core import Core
from clipsr_gateway._calls.call import Call
from clipsr_gateway._texts.label_cache import KnownLabels
from clipsr_gateway._texts.labels import LabelQuery
from clipsr_gateway.errors import BackendFaultError

# One batch of the text encoder (`text_encoder_max_batch_size` in similarity's configuration): not worth a portion.
_FEW_TEXTS = 64

# Texts of a portion, which adapts in between: labels that are known already go faster, and need no small portions.
_LEAST_TEXTS, _MOST_TEXTS = 16, 512

# A portion should take about this long: little beside the answer that somebody else waits for.
_SHORT_S, _LONG_S = 0.01, 0.03

# How long a list is believed to be known. The model keeps 50,000 labels, five of the longest lists, and has its own
# rule of which to evict; at worst a request waits while they are encoded again.
_BELIEVED_S = 300.0


class LabelWarmer:
    """Sends long label lists ahead, each one once for a while.

    Args:
        core: what every service works with.
        clock: seconds, monotonic.
    """

    def __init__(self, core: Core, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._core = core
        self._clock = clock
        self._forgotten_s = -math.inf
        # One portion at a time: several would be computed as one.
        self._turn = asyncio.Semaphore(1)

    def forget(self) -> None:
        """Believe no list that was warmed before now: the backend may have been restarted."""
        self._forgotten_s = self._clock()

    async def warm(self, known: KnownLabels, call: Call) -> None:
        """Return when the backend knows the labels, or immediately if they are few.

        Raises:
            BackendUnavailableError, DeadlineExceededError: the call fails.
        """
        if len(known.query.labels) * len(known.query.templates) <= _FEW_TEXTS:
            return
        began_s = self._clock()
        if known.warmed_s > max(self._forgotten_s, began_s - _BELIEVED_S):
            return
        try:
            await self._send_portions(known.query, call)
        except BackendFaultError:
            return  # the images' own requests meet the same fault, and report it
        known.warmed_s = began_s

    async def _send_portions(self, query: LabelQuery, call: Call) -> None:
        texts, start = _LEAST_TEXTS, 0
        while start < len(query.labels):
            end = start + max(1, texts // len(query.templates))
            took_s = await self._send(LabelQuery(labels=query.labels[start:end], templates=query.templates), call)
            start = end
            if took_s < _SHORT_S:
                texts = min(_MOST_TEXTS, texts * 2)
            elif took_s > _LONG_S:
                texts = max(_LEAST_TEXTS, texts // 2)

    async def _send(self, portion: LabelQuery, call: Call) -> float:
        encoded = self._core.backend.encode_labels(labels=portion.labels, templates=portion.templates)
        async with self._turn, call.acquire_slot(nouns="labels"):
            began_s = self._clock()
            with call.stage("labels"):
                await encoded.warm(
                    embed_dim=self._core.manifest.embed_dim,
                    request_id=call.request_id,
                    timeout_s=call.time_remaining_s(),
                )
            return self._clock() - began_s
