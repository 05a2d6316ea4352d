"""A small random model repository (real graphs and tokenizer, no trained weights), and a stand-in for Triton's API."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import tritonclient.utils
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

R, D, L = 64, 256, 32
CANVAS_SIZES_PX = (32, 64, 128)
TEMPLATE_SETS = {"simple": ["a photo of a {}."], "pair": ["a photo of a {}.", "a blurry photo of a {}."]}
LABEL_SETS = {"pets": ["cat", "dog"]}
REPOSITORY = Path(__file__).parents[2] / "model_repository"
# What export writes and Python leaves behind; the rest of model_repository is committed.
GENERATED = ("*.onnx", "*.onnx.data", "manifest.json", "tokenizer.json", "text_banks", "__pycache__")


def _save(graph: onnx.GraphProto, path: Path) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))


def make_upscale(path: Path) -> None:
    """Resize to R x R, brighter with the box's mean; dynamic batch and canvas."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["canvas"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Shape", ["canvas"], ["batch"], start=0, end=2),
            helper.make_node("Concat", ["batch", "side"], ["sizes"], axis=0),
            helper.make_node("Resize", ["float", "", "", "sizes"], ["features"], mode="linear"),
            helper.make_node("ReduceMean", ["box", "axis"], ["mean"], keepdims=1),
            helper.make_node("Reshape", ["mean", "column"], ["shift"]),
            helper.make_node("Add", ["features", "shift"], ["detail"]),
            helper.make_node("Clip", ["detail", "low", "high"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["pixels"], to=TensorProto.UINT8),
        ],
        "upscale",
        [
            helper.make_tensor_value_info("canvas", TensorProto.UINT8, ["N", 3, "S", "S"]),
            helper.make_tensor_value_info("box", TensorProto.FLOAT, ["N", 4]),
        ],
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, R, R])],
        [
            numpy_helper.from_array(np.array([R, R], np.int64), "side"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
            numpy_helper.from_array(np.array([-1, 1, 1, 1], np.int64), "column"),
            numpy_helper.from_array(np.array(0, np.float32), "low"),
            numpy_helper.from_array(np.array(255, np.float32), "high"),
        ],
    )
    _save(graph, path)


def make_image_encoder(path: Path, *, output: str = "image_embedding") -> None:
    """A random projection, L2-normalized."""
    weight = np.random.default_rng(0).standard_normal((3 * R * R, D), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["float", "grey"], ["centred"]),
            helper.make_node("Flatten", ["centred"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["features"]),
            helper.make_node("LpNormalization", ["features"], [output], axis=-1, p=2),
        ],
        "image_encoder",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 3, R, R])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", D])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(np.array(127.5, np.float32), "grey")],
    )
    _save(graph, path)


def make_text_encoder(path: Path) -> None:
    """The mean of random token vectors, each scaled by its position, L2-normalized."""
    rng = np.random.default_rng(1)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "tokens"], ["vectors"]),
            helper.make_node("Mul", ["vectors", "position"], ["placed"]),
            helper.make_node("ReduceMean", ["placed", "axis"], ["mean"], keepdims=0),
            helper.make_node("LpNormalization", ["mean"], ["text_embedding"], axis=-1, p=2),
        ],
        "text_encoder",
        [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", L])],
        [helper.make_tensor_value_info("text_embedding", TensorProto.FLOAT, ["N", D])],
        [
            numpy_helper.from_array(rng.standard_normal((300, D), np.float32), "table"),
            numpy_helper.from_array(rng.standard_normal((L, D), np.float32), "position"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    _save(graph, path)


def make_tokenizer(path: Path) -> None:
    """One token a byte, ids below 258, cut and padded to L with an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<end>": 1} | {letter: index + 2 for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    tokenizer.enable_truncation(L)
    tokenizer.enable_padding(length=L, pad_id=0, pad_token="<pad>")
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def manifest_document(root: Path) -> dict[str, object]:
    """The manifest of what lies under `root`."""
    files = [root / name / "1" / "model.onnx" for name in ("upscale", "image_encoder", "text_encoder")]
    files.append(root / "text_encoder" / "tokenizer.json")
    artifacts = {
        str(file.relative_to(root)): {
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "bytes": file.stat().st_size,
        }
        for file in files
        if file.is_file()
    }
    return {
        "schema_version": 1,
        "name": "random",
        "digest": "sha256:0",
        "image_encoder": {
            "architecture": "random",
            "image_size_px": R,
            "embed_dim": D,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
        },
        "text_encoder": {"context_length": L, "vocab_size": 258, "pad_token_id": 0},
        "upscaler": {"architecture": "resize", "canvas_sizes_px": list(CANVAS_SIZES_PX), "scale_max": 4.0},
        "scoring": {"function": "softmax", "logit_scale": 50.0, "logit_bias": 0.0},
        "native_min_side_px": R,
        "default_templates": "@simple",
        "template_sets": TEMPLATE_SETS,
        "label_sets": LABEL_SETS,
        "text_banks": [],
        "artifacts": artifacts,
        "versions": {},
    }


def make_repository(root: Path) -> Path:
    """Copy the committed part of `model_repository` and add what export would write."""
    shutil.copytree(
        REPOSITORY,
        root,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns(
            "*.onnx", "*.onnx.data", "manifest.json", "tokenizer.json", "text_banks", "__pycache__"
        ),
    )
    make_upscale(root / "upscale" / "1" / "model.onnx")
    make_image_encoder(root / "image_encoder" / "1" / "model.onnx")
    make_text_encoder(root / "text_encoder" / "1" / "model.onnx")
    make_tokenizer(root / "text_encoder" / "tokenizer.json")
    (root / "manifest.json").write_text(json.dumps(manifest_document(root), indent=2), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model repository; tests read it and never write."""
    return make_repository(tmp_path_factory.mktemp("model_repository"))


@pytest.fixture
def make_model_repository() -> Callable[[Path], Path]:
    """Makes a repository of the test's own, to break."""
    return make_repository


@pytest.fixture(scope="session")
def make_manifest() -> Callable[[Path], dict[str, object]]:
    """Makes the manifest's document for a folder."""
    return manifest_document


@pytest.fixture(scope="session")
def committed_repository() -> Path:
    """`model_repository/` as it is in the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def sizes() -> SimpleNamespace:
    """R, D, L and the canvas sizes of the random model."""
    return SimpleNamespace(R=R, D=D, L=L, canvas_sizes_px=CANVAS_SIZES_PX)


class FakeTritonError(Exception):
    """Message and code."""

    INVALID_ARG, UNAVAILABLE, INTERNAL, CANCELLED = "INVALID_ARG", "UNAVAILABLE", "INTERNAL", "CANCELLED"

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


class FakeTensor:
    """A named array."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self._array = name, array

    def as_numpy(self) -> np.ndarray:
        return self._array


class FakeResponse:
    """Output tensors by name, or an error."""

    def __init__(self, output_tensors: list[FakeTensor] | None = None, error: FakeTritonError | None = None) -> None:
        self.outputs = {tensor.name: tensor.as_numpy() for tensor in output_tensors or []}
        self.failure = error

    def has_error(self) -> bool:
        return self.failure is not None

    def error(self) -> SimpleNamespace:
        return SimpleNamespace(message=lambda: str(self.failure))


class FakeMetricFamily:
    """Counters by name, summed up in `totals`."""

    COUNTER = "counter"
    totals: dict[str, float]

    def __init__(self, *, name: str, description: str, kind: str) -> None:
        assert kind == self.COUNTER
        assert description
        self._name = name
        self.totals[name] = 0

    def Metric(self, *, labels: dict[str, str]) -> SimpleNamespace:  # noqa: N802  # Triton's spelling
        def increment(value: float) -> None:
            self.totals[self._name] += value

        return SimpleNamespace(increment=increment)


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Stand-in for `triton_python_backend_utils`; `encode` and `denoise` answer for models, `totals` holds metrics."""
    module = types.ModuleType("triton_python_backend_utils")
    family = type("MetricFamily", (FakeMetricFamily,), {"totals": {}})

    class InferenceRequest:
        def __init__(
            self, *, model_name: str, requested_output_names: list[str], inputs: list, preferred_memory: object
        ):
            function = {("text_encoder", "text_embedding"): encode, ("denoise", "clean"): module.denoise}
            (self._output,) = requested_output_names
            self._run = function[model_name, self._output]
            self._inputs = {tensor.name: tensor.as_numpy() for tensor in inputs}

        def exec(self) -> FakeResponse:
            try:
                return FakeResponse([FakeTensor(self._output, self._run(**self._inputs))])
            except RuntimeError as error:
                return FakeResponse(error=FakeTritonError(str(error)))

    def encode(tokens: np.ndarray) -> np.ndarray:
        module.batches.append(len(tokens))
        return module.encode(tokens)

    def get(owner: dict | FakeResponse, name: str) -> FakeTensor:
        return FakeTensor(name, (owner.outputs if isinstance(owner, FakeResponse) else owner)[name])

    module.__dict__.update(
        Tensor=FakeTensor,
        InferenceResponse=FakeResponse,
        TritonError=FakeTritonError,
        MetricFamily=family,
        InferenceRequest=InferenceRequest,
        PreferredMemory=lambda memory, device: (memory, device),
        TRITONSERVER_MEMORY_CPU=0,
        get_input_tensor_by_name=get,
        get_output_tensor_by_name=get,
        deserialize_bytes_tensor=tritonclient.utils.deserialize_bytes_tensor,
        totals=family.totals,
        batches=[],
        encode=lambda tokens: np.zeros((len(tokens), D), np.float32),
        denoise=lambda state, lq, time, content, degradation: lq,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    for name in [
        name for name in sys.modules if name.startswith(("clipsr_serving.models", "clipsr_serving.backends._tr"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    yield module
    for name in [
        name for name in sys.modules if name.startswith(("clipsr_serving.models", "clipsr_serving.backends._tr"))
    ]:
        sys.modules.pop(name)


@pytest.fixture
def make_args(repository: Path) -> Callable[[str], dict[str, str]]:
    """What Triton hands to `initialize` of a model in the random repository."""

    def make(model: str, *, config: dict | None = None, root: Path = repository) -> dict[str, str]:
        return {
            "model_config": json.dumps(config or {}),
            "model_name": model,
            "model_version": "1",
            "model_repository": str(root / model),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }

    return make
