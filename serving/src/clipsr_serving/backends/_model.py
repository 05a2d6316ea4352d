"""A model of a repository, opened in this process with the session that the embedded Triton would give it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clipsr_serving.backends._batching import Answer, Tensors, run_batched
from clipsr_serving.backends._pbtxt import read_config
from clipsr_serving.backends._spec import ModelSpec, read_model_spec
from clipsr_serving.errors import ModelLoadError

_THREADS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}


class Session(Protocol):
    """A loaded graph."""

    def run(self, inputs: Tensors) -> Tensors:
        """Run once; outputs belong to the caller."""
        ...


@dataclass(frozen=True, kw_only=True)
class Model:
    """A graph and how it is configured.

    Attributes:
        spec: what its configuration says.
        session: runs it.
    """

    spec: ModelSpec
    session: Session

    def run_each(self, requests: Sequence[Tensors]) -> list[Answer]:
        """Answer requests of one row each, in batches as large as the configuration allows.

        Only requests of equal shapes share a batch, and one that the graph cannot take fails alone.
        """
        size = max(1, self.spec.max_batch_size)
        answers: list[Answer] = []
        for start in range(0, len(requests), size):
            answers += run_batched(requests[start : start + size], self.session.run, batches=True)
        return answers


def read_model_args(repository: Path, name: str, *, config_name: str | None = None) -> dict[str, str]:
    """Return what Triton hands to `initialize` of a model.

    Args:
        repository: the model repository.
        name: of the model.
        config_name: `configs/NAME.pbtxt` is read where the model has it, else config.pbtxt.

    Raises:
        ModelLoadError: the configuration is missing or damaged.
    """
    folder = repository / name
    chosen = folder / "configs" / f"{config_name}.pbtxt"
    config = read_config(chosen if config_name and chosen.is_file() else folder / "config.pbtxt")
    is_gpu = any(group.get("kind") == "KIND_GPU" for group in config.get("instance_group", []))
    return {
        "model_config": json.dumps(config),
        "model_name": name,
        "model_version": "1",
        "model_repository": str(folder),
        "model_instance_kind": "GPU" if is_gpu else "CPU",
        "model_instance_device_id": "0",
    }


def open_model(repository: Path, name: str, *, config_name: str | None = None, threads: int | None = None) -> Model:
    """Load a graph of a model repository.

    Args:
        repository: the model repository.
        name: of the model.
        config_name: as in `read_model_args`.
        threads: of the engine; None takes the configuration's, or the cores of this process.

    Raises:
        ModelLoadError: the configuration, the graph or the device cannot be used here.
    """
    args = read_model_args(repository, name, config_name=config_name)
    config = json.loads(args["model_config"])
    backend = config.get("backend")
    if backend not in _THREADS:
        raise ModelLoadError(
            f"model {name!r}: the backend {backend!r} runs in Triton only; in this process models run by "
            f"{' or '.join(_THREADS)}"
        )
    if threads is not None:
        config.setdefault("parameters", {})[_THREADS[backend]] = {"string_value": str(threads)}
        args["model_config"] = json.dumps(config)
    spec = read_model_spec(args)
    return Model(spec=spec, session=_open_session(backend, spec))


def _open_session(backend: str, spec: ModelSpec) -> Session:
    # Each runtime takes a second to import.
    if backend == "openvino":
        from clipsr_serving.backends.openvino import OpenVinoSession

        return OpenVinoSession(spec)
    from clipsr_serving.backends.onnxruntime import OnnxRuntimeSession

    return OnnxRuntimeSession(spec)
