"""The face of the Python-based backends towards Triton."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]  # only inside Triton

from clipsr_serving.backends._batching import Answer, Tensors, run_batched
from clipsr_serving.backends._model import Session
from clipsr_serving.backends._spec import ModelSpec, read_model_spec

_log = logging.getLogger(__name__)


class SessionModel:
    """What Triton calls; a backend's `model.py` subclasses it with the session to open."""

    open_session: Callable[[ModelSpec], Session]

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph; an exception here is the reason that Triton logs for the model."""
        logging.basicConfig(level=logging.INFO, format="clipsr %(levelname)s: %(message)s")
        self._spec = read_model_spec(args)
        self._session = type(self).open_session(self._spec)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer a batch of requests, one response each."""
        inputs = [self._read(request) for request in requests]
        answers = run_batched(inputs, self._session.run, batches=self._spec.max_batch_size > 0)
        return [self._respond(answer) for answer in answers]

    def _read(self, request: Any) -> Tensors:
        # Views of Triton's memory: valid until execute returns, and not kept beyond it.
        return {
            tensor.name: pb_utils.get_input_tensor_by_name(request, tensor.name).as_numpy()
            for tensor in self._spec.inputs
        }

    def _respond(self, answer: Answer) -> Any:
        if isinstance(answer, Exception):
            _log.error("model %s: %s", self._spec.name, answer)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"model {self._spec.name!r}: {answer}"))
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in answer.items()])
