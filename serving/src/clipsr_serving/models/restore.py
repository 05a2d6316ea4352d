"""The model `restore`: a whole picture through the sampler, which calls `denoise`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsr_serving.errors import InputError
from clipsr_serving.models import _triton
from clipsr_serving.restoration import read_sampler, restore

__all__ = ["RestoreModel"]

_SAMPLER_FILE = "sampler.json"


class RestoreModel:
    """`lq`, `content`, `degradation`, `steps`, `seed` to `restored`."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the sampler; `denoise` itself may still be loading."""
        _triton.set_up_logging()
        self._settings = read_sampler(Path(args["model_repository"], args["model_version"], _SAMPLER_FILE))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request by itself."""
        return _triton.answer_each(requests, self._answer)

    def _answer(self, request: Any) -> _triton.Answer:
        (lq,) = _triton.read_array(request, "lq")
        steps, seed = (int(_triton.read_array(request, name)[0, 0]) for name in ("steps", "seed"))
        if not 1 <= steps <= len(self._settings.plans):
            most = len(self._settings.plans)
            raise InputError("STEPS_OUT_OF_RANGE", f"A restoration takes 1 to {most} steps, not {steps}.")
        contexts = {name: _triton.read_array(request, name) for name in ("content", "degradation")}

        def predict(state: NDArray[np.float32], tile: NDArray[np.float32], time: float) -> NDArray[np.float32]:
            _triton.raise_if_cancelled(request)
            at = np.array([[time]], dtype=np.float32)
            inputs = {"state": state[None], "lq": tile[None], "time": at, **contexts}
            return _triton.call_model("denoise", inputs, "clean")[0]

        restored = restore(lq, predict, self._settings, steps=steps, seed=seed)
        return {"restored": np.rint(restored[None] * 255).astype(np.uint8)}
