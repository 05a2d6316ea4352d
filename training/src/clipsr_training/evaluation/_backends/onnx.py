"""The models as exported: the ONNX files of a model repository, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipsr_training.clip._preprocess import Fitting
from clipsr_training.evaluation._backends.base import LocalBackend, Scoring, require_finite
from clipsr_training.evaluation._backends.manifest import read_manifest, read_routes

try:
    import onnxruntime
    from tokenizers import Tokenizer
except ModuleNotFoundError as missing:
    raise ImportError(f"the onnx back end needs {missing.name}: pip install 'clipsr-training[onnx]'") from missing

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxBackend(LocalBackend):
    """See `Backend`.

    Args:
        repository: a model repository that `clipsr-export` has filled.
        device: cpu or cuda.

    Raises:
        FileNotFoundError: the repository holds no exported model.
        ValueError: its manifest or a graph can't be used, or onnxruntime has no such device.
    """

    def __init__(self, repository: Path, *, device: str = "cpu") -> None:
        manifest = read_manifest(repository)
        image_encoder, scoring = manifest["image_encoder"], manifest["scoring"]
        super().__init__(
            image_size_px=image_encoder["image_size_px"],
            routes=read_routes(repository),
            scoring=Scoring(
                function=scoring["function"], logit_scale=scoring["logit_scale"], logit_bias=scoring["logit_bias"] or 0
            ),
            fitting=Fitting.of(image_encoder),
        )
        self._manifest = manifest
        self._repository = repository
        self._device = device
        self._sessions = {name: self._open(name) for name in ("upscale", "image_encoder", "text_encoder")}
        self._tokenizer = Tokenizer.from_file(str(repository / "text_encoder" / "tokenizer.json"))

    def describe(self) -> dict[str, object]:
        """See `Backend`."""
        return {
            "backend": "onnx",
            "model": self._manifest["name"],
            "digest": self._manifest["digest"],
            "device": self._device,
            "onnxruntime": onnxruntime.__version__,
        }

    def upscale(self, canvas: np.ndarray, box: np.ndarray) -> np.ndarray:
        """See `LocalBackend`."""
        return self._run("upscale", {"canvas": canvas, "box": box})

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """See `LocalBackend`."""
        return self._run("image_encoder", {"pixels": pixels})

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """See `LocalBackend`."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        return self._run("text_encoder", {"tokens": np.array(ids, dtype=np.int64)})

    def _open(self, name: str) -> Any:
        path = self._repository / name / "1" / "model.onnx"
        if not path.is_file():
            raise FileNotFoundError(f"no {path}; export the model first (clipsr-export, or make export)")
        provider = _PROVIDERS.get(self._device)
        if provider is None or provider not in onnxruntime.get_available_providers():
            known = [d for d, p in _PROVIDERS.items() if p in onnxruntime.get_available_providers()]
            raise ValueError(f"onnxruntime can't use the device {self._device!r} here; it has {', '.join(known)}")
        try:
            return onnxruntime.InferenceSession(str(path), providers=[provider])
        # onnxruntime's exceptions share no public base class.
        except Exception as error:
            raise ValueError(f"{path} can't be loaded: {str(error).splitlines()[0]}") from error

    def _run(self, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        (output,) = self._sessions[name].run(None, inputs)
        return require_finite(output, f"outputs of {name}")
