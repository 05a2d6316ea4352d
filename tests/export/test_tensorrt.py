"""TensorRT plans, as far as they can be tested without a GPU: shapes, names, the fp16 graph, the order of things.

`StandIn` builds no plans: it keeps the graph that it is given, and runs it in ONNX Runtime on the processor.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_export._commands.tensorrt import PlanJob, build_plans
from clipsr_export._errors import AgreementError, TemplateError
from clipsr_export._graphs.half import write_half
from clipsr_export._graphs.int8 import measure_agreement
from clipsr_export._repository.manifest import Manifest, read_manifest
from clipsr_export._tensorrt.plans import MODELS, optimization_profiles, plan_name, read_configuration, read_max_batch
from clipsr_export.cli import main
from tests.export.tiny import SIZE_PX


class StandIn:
    """Stands where `PlanBuilder` does."""

    version, compute_capability, gpu = "10.13.3.9", (9, 0), "a stand-in"

    def __init__(self, *, noise: float = 0.0) -> None:
        self.noise = noise
        self.profiles: dict[str, list] = {}

    def build(self, graph, target, profiles) -> None:
        shutil.copy(graph, target)
        self.profiles[target.name] = list(profiles)

    def run(self, plan, inputs, output, *, profile):
        for name, array in inputs.items():
            ranges = self.profiles[plan.name][profile][name]
            assert all(a <= n <= b for a, n, b in zip(ranges.least, array.shape, ranges.most, strict=True))
        (result,) = onnxruntime.InferenceSession(plan).run([output], inputs)
        return result if result.dtype == np.uint8 else result + np.float32(self.noise) * np.roll(result, 1, axis=-1)


@pytest.fixture(scope="module")
def manifest(repository) -> Manifest:
    return read_manifest(repository)


@pytest.fixture
def copy(repository, tmp_path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "repository"))


def test_upscale_has_a_profile_for_each_canvas_and_one_for_windows(manifest):
    *canvases, windows = optimization_profiles("upscale", manifest, max_batch=8)
    assert [ranges["canvas"].best for ranges in canvases] == [(8, 3, side, side) for side in (32, 64, 128)]
    assert all(ranges["canvas"].least[1:] == ranges["canvas"].most[1:] for ranges in canvases)
    assert windows["canvas"].least == (1, 3, 1, 1)
    assert windows["canvas"].most == (8, 3, 128, 128)
    assert all(ranges["box"].most == (8, 4) for ranges in (*canvases, windows))


def test_windows_are_as_wide_as_tiles_need(manifest):
    """A tile is R pixels; the gateway sends them, one more, and the receptive field on both sides."""
    changes = {
        "image_encoder": manifest.image_encoder.model_copy(update={"image_size_px": 224}),
        "upscaler": manifest.upscaler.model_copy(update={"receptive_field_px": 20}),
    }
    large = manifest.model_copy(update=changes)
    assert optimization_profiles("upscale", large, max_batch=8)[-1]["canvas"].most == (8, 3, 265, 265)


def test_encoders_have_one_profile(manifest):
    (pixels,) = optimization_profiles("image_encoder", manifest, max_batch=32)
    assert (pixels["pixels"].least, pixels["pixels"].most) == ((1, 3, SIZE_PX, SIZE_PX), (32, 3, SIZE_PX, SIZE_PX))
    (tokens,) = optimization_profiles("text_encoder", manifest, max_batch=64)
    assert tokens["tokens"].best == (64, manifest.text_encoder.context_length)


def test_the_configurations_number_the_profiles(repo_root, manifest):
    for model in MODELS:
        path, text = read_configuration(repo_root / "model_repository", model)
        config = text_format.Parse(text, ModelConfig())
        count = len(optimization_profiles(model, manifest, max_batch=read_max_batch(text)))
        numbers = [str(i) for i in range(count)] if count > 1 else []
        assert [list(group.profile) for group in config.instance_group] == [numbers], path
        assert read_max_batch(text) == config.max_batch_size


def test_a_plan_is_named_after_what_it_runs_with():
    name = plan_name("upscale", tensorrt_version="10.13.3.9", compute_capability=(9, 0), is_half=False)
    assert name == "upscale-trt10.13.3.9-sm90-fp32.plan"


def test_half_keeps_the_contract_and_nearly_the_embeddings(repository, tmp_path):
    source, target = repository / "image_encoder" / "1" / "model.onnx", tmp_path / "half.onnx"
    write_half(source, target)
    model = onnx.load(target)
    types = {t.name: t.data_type for t in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    assert {types[node.input[1]] for node in products if node.input[1] in types} == {onnx.TensorProto.FLOAT16}
    (pixels,), (embedding,) = model.graph.input, model.graph.output
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert embedding.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    images = np.random.default_rng(0).integers(0, 256, (4, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)
    # fp16 keeps 11 bits; over a whole tower the embedding turns by less than 3 degrees.
    assert measure_agreement(source, target, images).least > 0.999
    (result,) = onnxruntime.InferenceSession(target).run(None, {"pixels": images})
    # Rounded to fp16 once more on the way out, and no more than that.
    np.testing.assert_allclose(np.linalg.norm(result, axis=1), 1, atol=1e-3)


def test_plans_are_put_beside_their_graphs_with_a_record(copy, manifest):
    (copy / "upscale" / "1" / "upscale-trt9-sm80-fp32.plan").write_bytes(b"of another machine")
    build_plans(PlanJob(repository=copy), StandIn())
    record = json.loads((copy / "tensorrt.json").read_text())
    assert (record["tensorrt"], record["compute_capability"]) == ("10.13.3.9", "9.0")
    precisions = {}
    for graph, plan in record["plans"].items():
        path = copy / plan["file"]
        assert path.stat().st_size == plan["bytes"]
        assert [p.name for p in path.parent.glob("*.plan")] == [path.name]
        assert plan["onnx_sha256"] == manifest.artifacts[graph].sha256
        config = text_format.Parse((path.parents[1] / "configs" / "gpu-tensorrt.pbtxt").read_text(), ModelConfig())
        assert config.default_model_filename == path.name
        precisions[config.name] = plan["precision"]
    assert precisions == {"upscale": "fp32", "image_encoder": "fp16", "text_encoder": "fp32"}
    build_plans(PlanJob(repository=copy, is_half=False), StandIn())  # again, over its own result
    assert (copy / "image_encoder" / "1" / "image_encoder-trt10.13.3.9-sm90-fp32.plan").is_file()


def test_a_plan_that_differs_is_refused(copy):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    with pytest.raises(AgreementError, match=r"the plan of image_encoder differs .* --precision fp32"):
        build_plans(PlanJob(repository=copy), StandIn(noise=0.5))
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_without_tensorrt_or_a_gpu_the_command_says_what_to_do(copy, capsys, monkeypatch):
    if importlib.util.find_spec("tensorrt") is None:
        assert main(["tensorrt", "--repository", str(copy)]) == 1
        assert "TensorRT is not installed here" in capsys.readouterr().err
    monkeypatch.setattr("clipsr_export._tensorrt.build._import_tensorrt", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["tensorrt", "--repository", str(copy)]) == 1
    assert "PyTorch finds no CUDA device; plans are built on the machine that serves" in capsys.readouterr().err


def test_a_repository_of_an_earlier_export_is_refused(copy):
    (copy / "upscale" / "configs" / "gpu-tensorrt.pbtxt").unlink()
    with pytest.raises(TemplateError, match=r"gpu-tensorrt\.pbtxt is missing; export the model again"):
        build_plans(PlanJob(repository=copy), StandIn())
