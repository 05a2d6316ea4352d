"""The committed configurations: they parse, fit each other, and say what the design says."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_serving.images import read_image

REPOSITORY = Path(__file__).parents[2] / "model_repository"
CONFIGS = sorted([*REPOSITORY.glob("*/config.pbtxt"), *REPOSITORY.glob("*/configs/*.pbtxt")])
IMAGE_PATH = ("decode", "decode_native", "upscale", "image_encoder", "similarity")
ENSEMBLES = {
    "classify": ["decode", "upscale", "image_encoder", "similarity"],
    "classify_detailed": ["decode", "upscale", "image_encoder", "similarity"],
    "classify_native": ["decode_native", "image_encoder", "similarity"],
    "classify_native_detailed": ["decode_native", "image_encoder", "similarity"],
    "embed_image": ["decode", "upscale", "image_encoder"],
    "embed_image_native": ["decode_native", "image_encoder"],
}
# Fields that releases before 24.10 or after it do not know would stop one of the two Tritons from loading.
KNOWN_FIELDS = {
    *("name", "platform", "backend", "max_batch_size", "input", "output", "instance_group", "dynamic_batching"),
    *("model_warmup", "parameters", "ensemble_scheduling", "default_model_filename", "optimization"),
}
GPU_PROFILES = ("gpu-onnx", "gpu-tensorrt")
GRAPHS = ("upscale", "image_encoder", "text_encoder")


def parse(path: Path) -> ModelConfig:
    return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())


def config_of(model: str) -> ModelConfig:
    return parse(REPOSITORY / model / "config.pbtxt")


def test_all_models_are_there():
    assert {path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")} == {
        *ENSEMBLES,
        *IMAGE_PATH,
        *("upscale_clean", "upscale_robust"),  # of `make export`
        "text_encoder",
        "embed_text",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(REPOSITORY)))
class TestEvery:
    def test_is_named_after_its_folder_and_batches(self, path):
        config = parse(path)
        assert config.name == path.relative_to(REPOSITORY).parts[0]
        assert config.max_batch_size > 0

    def test_uses_only_fields_that_all_releases_know(self, path):
        assert {field.name for field, _ in parse(path).ListFields()} <= KNOWN_FIELDS

    def test_has_no_queue_limit_and_no_response_cache(self, path):
        # A full queue inside an ensemble can hang releases before 2026.
        config = parse(path)
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 0
        assert not config.response_cache.enable

    def test_marks_every_size_that_depends_on_the_checkpoint(self, path):
        # Export rewrites these lines from the comment; a size without a mark would stay that of the bundled checkpoint.
        sizes = {"R": "64", "D": "256", "L": "32", "S": "-1"}
        for line in path.read_text(encoding="utf-8").splitlines():
            marked = re.fullmatch(r".*dims: \[ (?P<dims>[-\d, ]+) \].*  # \[(?P<names>[\w, -]+)\]", line)
            if marked:
                names = marked["names"].split(", ")
                assert marked["dims"].split(", ") == [sizes.get(name, name) for name in names]
        inputs_outputs = path.read_text(encoding="utf-8").split("model_warmup")[0]
        unmarked = [line for line in inputs_outputs.splitlines() if re.search(r"dims: \[ [^]]*(64|256|32)", line)]
        assert all("  # [" in line for line in unmarked)

    def test_a_profile_changes_only_how_a_model_runs(self, path):
        config, default = parse(path), config_of(parse(path).name)
        for field in ("input", "output", "max_batch_size"):
            assert getattr(config, field) == getattr(default, field)


def test_the_whole_image_path_takes_the_same_batch():
    sizes = {name: config_of(name).max_batch_size for name in (*IMAGE_PATH, *ENSEMBLES)}
    assert len(set(sizes.values())) == 1, sizes


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_ensembles_pass_tensors_of_equal_type_and_shape(ensemble):
    config = config_of(ensemble)
    assert [step.model_name for step in config.ensemble_scheduling.step] == ENSEMBLES[ensemble]
    tensors = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in config.input}
    for step in config.ensemble_scheduling.step:
        model = config_of(step.model_name)
        assert {tensor.name for tensor in model.input} == set(step.input_map)
        for tensor in model.input:
            # One word per thing: a tensor has the same name inside and outside its model.
            assert step.input_map[tensor.name] == tensor.name
            assert tensors[tensor.name] == (tensor.data_type, list(tensor.dims))
        for tensor in model.output:
            assert step.output_map[tensor.name] == tensor.name
            tensors[tensor.name] = (tensor.data_type, list(tensor.dims))
    for tensor in config.output:
        assert tensors[tensor.name] == (tensor.data_type, list(tensor.dims))


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_only_detailed_ensembles_give_out_what_they_need_inside(ensemble):
    """Triton fails requests for some outputs of such an ensemble (triton-inference-server/server#7482)."""
    config = config_of(ensemble)
    needed = {tensor for step in config.ensemble_scheduling.step for tensor in step.input_map.values()}
    inner = needed & {tensor.name for tensor in config.output}
    assert inner == ({"image_embedding", "pixels"} if ensemble.endswith("_detailed") else set())


@pytest.mark.parametrize("model", ["similarity", "embed_text"])
def test_texts_are_cut_to_the_text_encoders_batch(model):
    repeated = config_of(model).parameters["text_encoder_max_batch_size"].string_value
    for path in (REPOSITORY / "text_encoder").glob("config*/*.pbtxt"):
        assert int(repeated) == parse(path).max_batch_size
    assert int(repeated) == config_of("text_encoder").max_batch_size


def test_similarity_owns_one_cache_and_takes_ragged_lists():
    config = config_of("similarity")
    assert [group.count for group in config.instance_group] == [1]
    assert {tensor.name for tensor in config.input if tensor.allow_ragged_batch} == {"labels", "templates"}


def batches_to_warm(config: ModelConfig) -> set[int]:
    """Both ends on the CPU; on a GPU, where kernels load at their first use, every power of two."""
    is_gpu = any(group.kind == group.KIND_GPU for group in config.instance_group)
    return (
        {2**power for power in range(8) if 2**power <= config.max_batch_size} if is_gpu else {1, config.max_batch_size}
    )


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.relative_to(REPOSITORY).parts[0] in GRAPHS], ids=str)
def test_graphs_are_warmed_at_every_canvas_and_both_ends_of_the_batch(path):
    config = parse(path)
    sizes = {tuple(warmup.inputs[config.input[0].name].dims) for warmup in config.model_warmup}
    warmed = {(tuple(warmup.inputs[config.input[0].name].dims), warmup.batch_size) for warmup in config.model_warmup}
    assert len(config.model_warmup) == len(warmed)
    assert warmed == {(size, batch) for size in sizes for batch in batches_to_warm(config)}
    if config.name == "upscale":
        assert sizes == {(3, side, side) for side in (32, 64, 128)}


@pytest.mark.parametrize("profile", GPU_PROFILES)
def test_a_profile_for_gpus_leaves_no_graph_on_the_cpu(profile):
    """Triton takes config.pbtxt, and with it the CPU, for a model that lacks the profile."""
    for model in GRAPHS:
        groups = parse(REPOSITORY / model / "configs" / f"{profile}.pbtxt").instance_group
        assert groups
        assert all(group.kind == group.KIND_GPU for group in groups)


def test_int8_changes_the_graph_of_the_image_encoder_and_nothing_else():
    for model in ("upscale", "text_encoder", "image_encoder"):
        int8, other = (parse(REPOSITORY / model / "configs" / f"{name}.pbtxt") for name in ("cpu-int8", "cpu"))
        if model == "image_encoder":
            assert (int8.default_model_filename, other.default_model_filename) == ("model.int8.onnx", "model.onnx")
            int8.default_model_filename = other.default_model_filename
        assert int8 == other, model


def test_every_profile_says_which_one_it_is():
    for path in REPOSITORY.glob("*/configs/*.pbtxt"):
        assert f"--profile {path.stem}`" in path.read_text(encoding="utf-8").split("name:")[0], path


def test_warmup_files_hold_what_the_comments_say():
    box = np.frombuffer((REPOSITORY / "upscale" / "warmup" / "box").read_bytes(), "<f4")
    assert box.tolist() == [0, 0, 32, 32]
    for model in ("decode", "decode_native"):
        folder = REPOSITORY / model / "warmup"
        (length,) = struct.unpack("<I", (folder / "image").read_bytes()[:4])
        image = (folder / "image").read_bytes()[4:]
        assert len(image) == length
        assert read_image(image).size == (32, 32)
        assert (folder / "fit").read_bytes() == struct.pack("<I", 11) + b"center_crop"


def test_an_unknown_field_would_be_noticed():
    with pytest.raises(text_format.ParseError):
        text_format.Parse('name: "m"\nqueue_limit: 3', ModelConfig())
