"""Some texts through the backend: a place, the deadline, and the clock."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipsr_gateway._admission.controller import text_units
from clipsr_gateway._admission.fair_slots import FairSlots
from clipsr_gateway._backend.protocol import InferenceBackend, embedding_fault
from clipsr_gateway._calls.call import Call
from clipsr_gateway._logs import log_event
from clipsr_gateway.errors import BackendFaultError, DeadlineExceededError


async def run_texts(
    texts: Sequence[str],
    *,
    templates: Sequence[str],
    embed_dim: int,
    backend: InferenceBackend,
    slots: FairSlots,
    call: Call,
) -> npt.NDArray[np.float32]:
    """Embed texts in one request to the backend once there is a place.

    Args:
        texts: N texts.
        templates: each with exactly one "{}".
        embed_dim: D.
        backend: what computes.
        slots: places in the backend.
        call: whose turn it takes.

    Returns:
        [N, D] L2-normalized.

    Raises:
        BackendError, DeadlineExceededError: none of the texts is embedded.
    """
    units = text_units(len(texts) * len(templates))
    async with call.acquire_slot(slots):
        if call.is_past_deadline():
            raise DeadlineExceededError("The deadline passed before all texts were sent to Triton.")
        try:
            with call.inference(units):
                values = await backend.embed_texts(
                    texts, templates=templates, request_id=call.request_id, timeout_s=call.time_remaining_s()
                )
            if fault := embedding_fault(values, (len(texts), embed_dim)):
                raise BackendFaultError(fault)
        except BackendFaultError as error:
            log_event("backend_fault", {"request_id": call.request_id, "cause": str(error)}, level=logging.ERROR)
            raise
    return values
