"""Configurations read without Triton, beside what protobuf reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_serving.backends import open_model, read_model_args, read_model_spec
from clipsr_serving.backends._pbtxt import read_config
from clipsr_serving.errors import ModelLoadError

REPOSITORY = Path(__file__).parents[3] / "model_repository"
CONFIGS = sorted(path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("*/**/*.pbtxt"))


def as_text(value: object) -> object:
    """Numbers as text: protobuf's JSON writes those of 64 bits so."""
    if isinstance(value, dict):
        return {name: as_text(held) for name, held in value.items()}
    return [as_text(held) for held in value] if isinstance(value, list) else str(value)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_is_what_protobuf_reads(name):
    assert len(CONFIGS) > 20
    message = text_format.Parse((REPOSITORY / name).read_text(encoding="utf-8"), ModelConfig())
    expected = json_format.MessageToDict(message, preserving_proto_field_name=True)
    found = read_config(REPOSITORY / name)
    assert {"name", "max_batch_size"} <= found.keys()
    assert as_text(found) == as_text({field: expected[field] for field in found})
    left_out = expected.keys() - found.keys()
    assert left_out <= {"dynamic_batching", "model_warmup", "ensemble_scheduling", "platform", "version_policy"}


def test_forms_that_the_text_format_allows(tmp_path):
    path = tmp_path / "config.pbtxt"
    path.write_text(
        'name: "a\\"b" max_batch_size: 8; # comment "with" { marks\n'
        "input { name: 'x' }\n"
        'parameters: [ { key: "k", value: { string_value: "1" } }, { value { string_value: "2" } key: "l" } ]\n'
        "instance_group [ { kind: KIND_GPU gpus: [ 0, 1 ] } ]\n",
        encoding="utf-8",
    )
    assert read_config(path) == {
        "name": 'a"b',
        "max_batch_size": 8,
        "input": [{"name": "x"}],
        "instance_group": [{"kind": "KIND_GPU", "gpus": [0, 1]}],
        "parameters": {"k": {"string_value": "1"}, "l": {"string_value": "2"}},
    }


@pytest.mark.parametrize(
    "text", ["input {", "input [ {", "name: }", "name:", 'name: "a', "parameters { }", "name: `a`", "}"]
)
def test_what_is_no_configuration_is_refused(text, tmp_path):
    path = tmp_path / "config.pbtxt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"config\.pbtxt is not a model configuration"):
        read_config(path)


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(ModelLoadError, match=r"config\.pbtxt cannot be read \(No such file"):
        read_config(tmp_path / "config.pbtxt")


def test_a_profile_is_read_where_the_model_has_it(repository):
    assert "HINT_BF16" in read_model_args(repository, "image_encoder", config_name="cpu")["model_config"]
    assert read_model_args(repository, "decode", config_name="cpu") == read_model_args(repository, "decode")
    assert read_model_args(repository, "image_encoder", config_name="gpu-onnx")["model_instance_kind"] == "GPU"


@pytest.mark.parametrize(("config_name", "key"), [(None, "intra_op_thread_count"), ("cpu", "INFERENCE_NUM_THREADS")])
def test_a_model_opens_as_triton_would_open_it(config_name, key, repository, sizes):
    model = open_model(repository, "image_encoder", config_name=config_name, threads=1)
    assert model.spec.parameters[key] == "1"
    spec = read_model_spec(read_model_args(repository, "image_encoder", config_name=config_name))
    assert (model.spec.inputs, model.spec.max_batch_size) == (spec.inputs, spec.max_batch_size)
    rows = np.random.default_rng(0).integers(0, 256, (70, 1, 3, sizes.R, sizes.R), dtype=np.uint8)
    together = [answer["image_embedding"] for answer in model.run_each([{"pixels": row} for row in rows])]
    alone = [model.session.run({"pixels": row})["image_embedding"] for row in rows]
    assert np.allclose(together, alone, atol=1e-3)


def test_a_backend_of_triton_alone_is_refused(repository):
    with pytest.raises(ModelLoadError, match="the backend 'python' runs in Triton only"):
        open_model(repository, "decode")
