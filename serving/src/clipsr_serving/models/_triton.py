"""Triton's Python API as the models use it: read a request, answer it, call another model, count."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]  # only inside Triton
from numpy.typing import NDArray

from clipsr_serving.errors import InputError, ModelCallError, RequestCancelledError
from clipsr_serving.text.cache import LabelSpaceCache

Answer = Mapping[str, NDArray[Any]] | Exception
_log = logging.getLogger(__name__)

# Shorter tensors are taken apart faster than they are found.
_LONG_BYTES = 1024


def set_up_logging() -> None:
    """Send this process's log to stderr, which Triton mixes into its own."""
    logging.basicConfig(level=logging.INFO, format="clipsr %(levelname)s: %(message)s")


def find_repository(args: Mapping[str, str]) -> Path:
    """Return the model repository's root, from what Triton hands to `initialize` (the model's own folder)."""
    return Path(args["model_repository"]).parent


def read_array(request: Any, name: str) -> NDArray[Any]:
    """Return an input as Triton holds it: a view that dies with the request."""
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def read_byte_rows(request: Any, name: str) -> list[tuple[bytes, ...]]:
    """Return a BYTES input [batch, n] as one tuple a row."""
    return [tuple(row) for row in read_array(request, name).tolist()]


def remember_strings(label_spaces: LabelSpaceCache) -> None:
    """Let this process take a long BYTES tensor apart once, where Triton does it in Python.

    Up to 2025 Triton's stub calls the function of its own module for each tensor, so that it can be replaced there: it
    takes 5 ms for 10,000 labels, and hashing their 140 kB 0.04. Later releases take tensors apart in C++, call no
    function and may drop it; there is nothing to save then.
    """
    decode: Callable[[Any], NDArray[np.object_]] | None = getattr(pb_utils, "deserialize_bytes_tensor", None)
    if decode is None:
        return

    def remember(encoded: Any) -> NDArray[np.object_]:
        content = bytes(encoded)
        return decode(content) if len(content) < _LONG_BYTES else label_spaces.find_strings(content, decode)

    pb_utils.deserialize_bytes_tensor = remember


def respond(answer: Answer) -> Any:
    """Make the response; an InputError becomes INVALID_ARG, another model's failure UNAVAILABLE, the rest INTERNAL."""
    if not isinstance(answer, Exception):
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in answer.items()])
    if isinstance(answer, InputError):
        error = pb_utils.TritonError(str(answer), pb_utils.TritonError.INVALID_ARG)
    elif isinstance(answer, RequestCancelledError):
        error = pb_utils.TritonError(str(answer), pb_utils.TritonError.CANCELLED)
    elif isinstance(answer, ModelCallError):
        error = pb_utils.TritonError(f"clipsr:BACKEND_UNAVAILABLE: {answer}", pb_utils.TritonError.UNAVAILABLE)
    else:
        _log.error("request failed", exc_info=answer)
        error = pb_utils.TritonError(f"clipsr:INTERNAL: {type(answer).__name__}: {answer}")
    return pb_utils.InferenceResponse(error=error)


def send(sender: Any, answer: Answer) -> None:
    """Answer a request by its response sender, from any thread, after `execute` has returned None for it."""
    sender.send(respond(answer), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def answer_each(requests: Sequence[Any], answer: Callable[[Any], Answer]) -> list[Any]:
    """Answer requests one by one; whatever one raises is its own answer only."""
    return [respond(_catch(answer, request)) for request in requests]


def _catch(answer: Callable[[Any], Answer], request: Any) -> Answer:
    try:
        return answer(request)
    except Exception as error:
        return error


def raise_if_cancelled(request: Any) -> None:
    """Stop work on a request that nobody waits for any more.

    Raises:
        RequestCancelledError: its caller gave it up.
    """
    if request.is_cancelled():
        raise RequestCancelledError("the caller gave the request up")


def call_model(model_name: str, inputs: Mapping[str, NDArray[Any]], output_name: str) -> NDArray[np.float32]:
    """Run another model of this server, wait for it, and return one of its outputs.

    Raises:
        ModelCallError: it is not loaded, or it failed.
    """
    request = pb_utils.InferenceRequest(
        model_name=model_name,
        requested_output_names=[output_name],
        inputs=[pb_utils.Tensor(name, array) for name, array in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        raise ModelCallError(f"{model_name} failed: {response.error().message()}")
    output = pb_utils.get_output_tensor_by_name(response, output_name).as_numpy()
    # A copy: the view's memory goes back to Triton with the response.
    return np.array(output, dtype=np.float32)


class Counters:
    """Prometheus counters of one name on Triton's metrics port, fed with running totals.

    Args:
        name: as the page has it.
        description: likewise.
        label: tells them apart; None for one counter without labels.
    """

    def __init__(self, name: str, description: str, *, label: str | None = None) -> None:
        # A family lives as long as something holds it.
        self._family = pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.COUNTER)
        self._label = label
        self._metrics: dict[str, Any] = {}
        self._totals: dict[str, float] = {}

    def advance_to(self, total: float, value: str = "") -> None:
        """Raise the counter with this value of the label to a total that only grows."""
        if value not in self._metrics:
            labels = {} if self._label is None else {self._label: value}
            self._metrics[value] = self._family.Metric(labels=labels)
        if total > (known := self._totals.get(value, 0)):
            self._metrics[value].increment(total - known)
            self._totals[value] = total
