"""The models as exported: a model repository in this process, by the code that Triton runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsr_training.evaluation._backends.base import LocalBackend, Scoring, resolve_templates
from clipsr_training.evaluation._backends.pixels import Route

try:
    import onnxruntime

    from clipsr_serving import InputError, ServingError
    from clipsr_serving.pipeline import Pipeline
except ModuleNotFoundError as missing:
    raise ImportError(f"the onnx back end needs {missing.name}: pip install 'clipsr-training[onnx]'") from missing

# Of `clipsr-serve up`; both run the graphs in ONNX Runtime.
_PROFILES = {"cpu": "cpu-onnx", "cuda": "gpu-onnx"}


class OnnxBackend(LocalBackend):
    """See `Backend`.

    Args:
        repository: a model repository that `clipsr-export` has filled.
        device: cpu or cuda.

    Raises:
        ValueError: the repository or a graph of it can't be used, or there is no such device.
    """

    def __init__(self, repository: Path, *, device: str = "cpu") -> None:
        if device not in _PROFILES:
            raise ValueError(f"the onnx back end runs on {' or '.join(_PROFILES)}, not on {device!r}")
        try:
            self._pipeline = Pipeline.load(repository, profile=_PROFILES[device])
        except ServingError as error:
            raise ValueError(str(error)) from error
        manifest = self._pipeline.manifest
        super().__init__(
            image_size_px=manifest.image_encoder.image_size_px,
            scoring=Scoring(
                function=manifest.scoring.function,
                logit_scale=manifest.scoring.logit_scale,
                logit_bias=manifest.scoring.logit_bias,
            ),
        )
        self._device = device

    def describe(self) -> dict[str, object]:
        """See `Backend`."""
        return {
            "backend": "onnx",
            "model": self._pipeline.manifest.name,
            "digest": self._pipeline.manifest.digest,
            "device": self._device,
            "onnxruntime": onnxruntime.__version__,
        }

    def render(self, files: Sequence[bytes], names: Sequence[str], *, route: Route) -> np.ndarray:
        """Return what the encoder sees of encoded images, uint8 [N, 3, R, R]; ValueError if one can't be decoded."""
        return _join(self._render(files, route), names)

    def embed_images(self, files: Sequence[bytes], names: Sequence[str], *, route: Route) -> np.ndarray:
        """See `LocalBackend`."""
        return _join(self._pipeline.encode(self._render(files, route)), names)

    def embed_labels(self, labels: Sequence[str], templates: Sequence[str]) -> np.ndarray:
        """See `LocalBackend`."""
        try:
            return self._pipeline.embed_texts(labels, resolve_templates(templates)).values
        except ServingError as error:
            raise ValueError(f"the labels can't be embedded: {_words(error)}") from error

    def _render(self, files: Sequence[bytes], route: Route) -> list[np.ndarray | Exception]:
        decoded = self._pipeline.decode(files, route=None if route == "auto" else route)
        return list(self._pipeline.render(decoded))


def _join(outcomes: Sequence[np.ndarray | Exception], names: Sequence[str]) -> np.ndarray:
    """Return one array of all images.

    Raises:
        ValueError: one failed; named.
    """
    rows: list[np.ndarray] = []
    for outcome, name in zip(outcomes, names, strict=True):
        if isinstance(outcome, Exception):
            raise ValueError(f"{name} can't be used: {_words(outcome)}") from outcome
        rows.append(outcome)
    return np.concatenate(rows)


def _words(error: Exception) -> str:
    return error.message if isinstance(error, InputError) else str(error)
