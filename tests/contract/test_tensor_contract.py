"""One contract in four places: configurations, ONNX graphs, manifest and the page that describes them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as config_pb2

from clipsr_export._repository.dims import fill_dims
from clipsr_training.degradation import KINDS

# KServe names in the docs, Triton's in the configurations, ONNX's in the graphs.
_TRITON_TYPES = {
    "BYTES": "TYPE_STRING",
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
    "FP32": "TYPE_FP32",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "UINT64": "TYPE_UINT64",
}
_ONNX_TYPES = {
    onnx.TensorProto.UINT8: "TYPE_UINT8",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.INT64: "TYPE_INT64",
}
_GRAPHS = ("upscale", "image_encoder", "text_encoder")
_TENSOR = re.compile(r"`(?P<name>\w+)` (?P<type>\w+) \[(?P<dims>[^\]]*)\]")


@pytest.fixture(scope="module")
def repository(repo_root) -> Path:
    return repo_root / "model_repository"


@pytest.fixture(scope="module")
def manifest(repository) -> dict:
    return json.loads((repository / "manifest.json").read_text())


@pytest.fixture(scope="module")
def sizes(manifest) -> dict[str, int]:
    encoder = manifest["image_encoder"]
    return {
        "R": encoder["image_size_px"],
        "D": encoder["embed_dim"],
        "L": manifest["text_encoder"]["context_length"],
        "C": len(KINDS),
    }


def read_config(path: Path) -> config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), config_pb2.ModelConfig())


def configs(repository: Path) -> dict[str, config_pb2.ModelConfig]:
    """The models of a repository, and those that an export may add."""
    optional = repository.with_name("model_repository_optional")
    paths = [*optional.glob("*/config.pbtxt"), *sorted(repository.glob("*/config.pbtxt"))]
    return {path.parent.name: read_config(path) for path in paths}


def tensors_of(items) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {item.name: (config_pb2.DataType.Name(item.data_type), tuple(item.dims)) for item in items}


def documented(repo_root: Path, sizes: dict[str, int]) -> dict[str, tuple[str, dict, dict]]:
    """Return model → (kind, inputs, outputs) as the table of the docs says."""
    models = {}
    for line in (repo_root / "docs" / "tensor-contract.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and _TENSOR.search(cells[2]):
            models[cells[0].strip("`")] = (cells[1], *(_documented_tensors(cell, sizes) for cell in cells[2:]))
    return models


def _documented_tensors(cell: str, sizes: dict[str, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    known = {"S": -1, "H": -1, "W": -1, **sizes}
    return {
        match["name"]: (
            _TRITON_TYPES[match["type"]],
            tuple(known[dim] if dim in known else int(dim) for dim in match["dims"].split(",")),
        )
        for match in _TENSOR.finditer(cell)
    }


def differing(described: dict[str, tuple[str, dict, dict]], actual: dict[str, config_pb2.ModelConfig]) -> set[str]:
    """Names of the models that only one side has, or whose tensors differ."""
    return (described.keys() ^ actual.keys()) | {
        name
        for name in described.keys() & actual.keys()
        if (tensors_of(actual[name].input), tensors_of(actual[name].output)) != described[name][1:]
    }


def test_docs_and_configurations_name_the_same_models_and_tensors(repo_root, repository, sizes):
    described = documented(repo_root, sizes)
    assert len(described) >= len(_GRAPHS)
    assert differing(described, configs(repository)) == set()


@pytest.mark.parametrize("change", ["name", "type", "dims", "model"])
def test_a_changed_tensor_is_noticed(repo_root, repository, sizes, change):
    actual = configs(repository)
    output = actual["upscale"].output[0]
    if change == "name":
        output.name = "image"
    elif change == "type":
        output.data_type = config_pb2.TYPE_FP16
    elif change == "dims":
        output.dims[0] += 1
    else:
        del actual["upscale"]
    assert differing(documented(repo_root, sizes), actual) == {"upscale"}


def test_graphs_agree_with_their_configurations(repository):
    for name in _GRAPHS:
        graph = onnx.load(repository / name / "1" / "model.onnx", load_external_data=False).graph
        for variant in [repository / name / "config.pbtxt", *(repository / name / "configs").glob("*.pbtxt")]:
            config = read_config(variant)
            for configured, values in ((config.input, graph.input), (config.output, graph.output)):
                assert tensors_of(configured) == {value.name: _onnx_tensor(value) for value in values}, variant


def _onnx_tensor(value: onnx.ValueInfoProto) -> tuple[str, tuple[int, ...]]:
    tensor = value.type.tensor_type
    assert tensor.shape.dim[0].dim_param, f"{value.name}: the batch must be dynamic"
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim[1:])
    return _ONNX_TYPES[tensor.elem_type], dims


def test_a_profile_changes_how_a_model_runs_and_not_what_it_is(repository):
    for variant in repository.glob("*/configs/*.pbtxt"):
        base, other = read_config(variant.parents[1] / "config.pbtxt"), read_config(variant)
        assert tensors_of(other.input) == tensors_of(base.input), variant
        assert tensors_of(other.output) == tensors_of(base.output), variant
        assert other.max_batch_size == base.max_batch_size, variant


def test_every_ensemble_step_connects_tensors_of_one_type(repository):
    models = configs(repository)
    for name, config in models.items():
        pool = tensors_of(config.input)
        for step in config.ensemble_scheduling.step:
            inputs, outputs = (
                tensors_of(items) for items in (models[step.model_name].input, models[step.model_name].output)
            )
            assert step.input_map.keys() == inputs.keys(), (name, step.model_name)
            for tensor, source in step.input_map.items():
                assert _fits(pool[source], inputs[tensor]), (name, step.model_name, tensor)
            pool |= {target: outputs[tensor] for tensor, target in step.output_map.items()}
        for tensor, described in tensors_of(config.output).items():
            if config.platform == "ensemble":
                assert _fits(pool[tensor], described), (name, tensor)


def _fits(given: tuple[str, tuple[int, ...]], wanted: tuple[str, tuple[int, ...]]) -> bool:
    same_rank = len(given[1]) == len(wanted[1])
    return (
        given[0] == wanted[0]
        and same_rank
        and all(-1 in (a, b) or a == b for a, b in zip(given[1], wanted[1], strict=True))
    )


def test_committed_sizes_are_those_of_the_bundled_checkpoint(repository, sizes):
    for path in [*repository.glob("*/config.pbtxt"), *repository.glob("*/configs/*.pbtxt")]:
        assert fill_dims(path.read_text(), sizes) == path.read_text(), path


def test_no_queue_is_bounded_inside_the_ensemble(repository):
    """A full queue inside an ensemble hangs Triton releases before 2026; admission control lives in the gateway."""
    for path in [*repository.glob("*/config.pbtxt"), *repository.glob("*/configs/*.pbtxt")]:
        assert read_config(path).dynamic_batching.default_queue_policy.max_queue_size == 0, path
