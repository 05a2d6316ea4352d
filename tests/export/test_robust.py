"""A controller in the export: its graph, its models, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from torch.nn import functional
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_export import TemplateError
from clipsr_export._commands import clip as clip_command
from clipsr_export._commands import int8
from clipsr_export._graphs.int8 import FILE_NAME
from clipsr_export._repository.manifest import read_manifest, sha256
from clipsr_export._repository.robust import ADDED_MODELS, AUTO_MODELS, ROBUST_MODELS, derive_configurations
from clipsr_export.cli import main
from clipsr_training.clip import save_clip
from clipsr_training.clip._checkpoint import build_clip
from clipsr_training.controller import ControlledClip, Controller, DamageHead, save_controller
from tests.contract import test_tensor_contract as contract
from tests.export.tiny import EMBED_DIM, SIZE_PX
from tests.tolerances import COSINE

KINDS = ("noisy", "hazy", "clean")


def controlled(clip, kinds=KINDS) -> ControlledClip:
    """Random connections, and prototypes that lie between the embeddings of noise, so that every kind occurs."""
    torch.manual_seed(3)
    controller = Controller(clip.model.visual, clip.image_size_px, kinds)
    with torch.no_grad():
        for parameter in controller.connections.parameters():
            parameter.normal_(std=0.1)
        noise = torch.from_numpy(make_noise(24)).float() / 255
        degradation = controller.eval()((noise - 0.45) / 0.26).degradation
        mean = functional.normalize(degradation.mean(dim=0), dim=0)
        # What they have in common would decide alone.
        controller.prototypes.copy_((degradation - (degradation @ mean)[:, None] * mean)[: len(kinds)])
    return ControlledClip(clip=clip, controller=controller)


def make_noise(n: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (n, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)


@pytest.fixture(scope="module")
def common(repository, repo_root) -> list[str]:
    """Options of an export without text banks, but for the output."""
    folder = repository.parent
    options = ["--upscaler", folder / "liif.safetensors", "--template", repo_root / "model_repository"]
    return [str(option) for option in (*options, "--no-text-banks")]


@pytest.fixture(scope="module")
def robust(common, repository, clip, tmp_path_factory):
    """A repository exported with a controller, and the folder of that."""
    folder = tmp_path_factory.mktemp("robust")
    head = DamageHead(weight=np.linspace(-1, 1, EMBED_DIM, dtype=np.float32), bias=0.1)
    save_controller(replace(controlled(clip), head=head), folder / "controller")
    model = ["--clip", str(repository.parent / "tiny-clip"), "--controller", str(folder / "controller")]
    assert main([*common, *model, "--output", str(folder / "repository")]) == 0
    return folder / "repository"


def run(repository, model: str, pixels: np.ndarray) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(repository / model / "1" / "model.onnx").run(None, {"pixels": pixels})


def test_the_graph_is_the_controlled_tower(robust, clip):
    pixels = make_noise(24)
    embedding, cosine, probability = run(robust, "robust_encoder", pixels)
    pair = controlled(clip)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (clip.mean, clip.std))
    with torch.inference_mode():
        expected = pair.encode((torch.from_numpy(pixels) / 255 - mean) / std)
    content = functional.normalize(expected.content, dim=-1).numpy()
    assert (1 - (content * embedding).sum(axis=1)).max() <= COSINE
    np.testing.assert_allclose(cosine, expected.cosines.numpy(), atol=COSINE)
    exponents = np.exp(cosine * float(pair.controller.logit_scale.detach().exp()))
    np.testing.assert_allclose(probability, exponents / exponents.sum(axis=1, keepdims=True), atol=1e-5)
    (plain,) = run(robust, "image_encoder", pixels)
    is_clean = cosine.argmax(axis=1) == KINDS.index("clean")
    assert 0 < is_clean.sum() < len(pixels)
    difference = 1 - (plain * embedding).sum(axis=1)
    assert difference[is_clean].max() <= COSINE < difference[~is_clean].min()


def test_models_are_added_and_the_others_stay(robust, repository, manifest):
    described = json.loads((robust / "manifest.json").read_text())
    assert described["robust_encoder"]["kinds"] == list(KINDS)
    head = described["robust_encoder"]["head"]
    np.testing.assert_array_equal(np.array(head["weight"], np.float32), np.linspace(-1, 1, EMBED_DIM, dtype=np.float32))
    assert head["bias"] == pytest.approx(0.1)
    assert "robust_encoder" not in manifest
    added = {path.name for path in robust.iterdir()} - {path.name for path in repository.iterdir()}
    assert added == set(ADDED_MODELS)
    for model in ("image_encoder", "classify", "upscale"):
        assert (robust / model / "config.pbtxt").read_text() == (repository / model / "config.pbtxt").read_text()
    graph = "image_encoder/1/model.onnx"
    assert described["artifacts"][graph] == manifest["artifacts"][graph]
    assert read_manifest(robust).digest == described["digest"] != manifest["digest"]


def test_derived_configurations_keep_the_contract(robust):
    contract.test_every_ensemble_step_connects_tensors_of_one_type(robust)
    contract.test_a_profile_changes_how_a_model_runs_and_not_what_it_is(robust)
    contract.test_no_queue_is_bounded_inside_the_ensemble(robust)
    configs = contract.configs(robust)
    new = {name: ("TYPE_FP32", (len(KINDS),)) for name in ("degradation_cosine", "degradation_probability")}
    for plain, derived in ROBUST_MODELS.items():
        assert configs[derived].name == derived
        assert contract.tensors_of(configs[derived].input) == contract.tensors_of(configs[plain].input)
        assert contract.tensors_of(configs[derived].output) == {**contract.tensors_of(configs[plain].output), **new}
        steps = [step.model_name for step in configs[derived].ensemble_scheduling.step]
        assert [
            ROBUST_MODELS.get(step.model_name) or step.model_name for step in configs[plain].ensemble_scheduling.step
        ] == steps
        assert (robust / derived / "1").is_dir()
    assert contract.tensors_of(configs["robust_encoder"].output)["image_embedding"] == ("TYPE_FP32", (EMBED_DIM,))


def test_the_models_of_auto_give_out_the_embedding_too(robust):
    configs = contract.configs(robust)
    for plain, derived in AUTO_MODELS.items():
        outputs = {**contract.tensors_of(configs[plain].output), "image_embedding": ("TYPE_FP32", (EMBED_DIM,))}
        assert contract.tensors_of(configs[derived].output) == outputs
        assert configs[derived].ensemble_scheduling == configs[plain].ensemble_scheduling
        assert (robust / derived / "1").is_dir()


def test_a_controller_without_a_head_leaves_the_choice_to_callers(repo_root):
    folder = repo_root / "model_repository"
    texts = {path.relative_to(folder): path.read_text() for path in folder.glob("*/config.pbtxt")}
    without, with_head = (derive_configurations(texts, has_head=has_head) for has_head in (False, True))
    assert {path.parts[0] for path in with_head.keys() - without.keys()} == set(AUTO_MODELS.values())


def test_profiles_without_a_form_of_their_own_run_the_graph(robust):
    def read(name: str) -> ModelConfig:
        return text_format.Parse((robust / "robust_encoder" / "configs" / f"{name}.pbtxt").read_text(), ModelConfig())

    assert read("cpu-int8") == read("cpu")
    assert read("gpu-tensorrt") == read("gpu-onnx")
    assert read("cpu").default_model_filename == "model.onnx"
    assert not list((robust / "robust_encoder").rglob("*.int8.onnx"))


@pytest.fixture(scope="module")
def in_int8(robust, tmp_path_factory):
    """A copy of the repository, with both encoders in int8."""
    folder = tmp_path_factory.mktemp("int8")
    rng = np.random.default_rng(0)
    for i in range(24):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((60, 50), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    copied = Path(shutil.copytree(robust, folder / "repository"))
    options = ["--repository", copied, "--calibration", folder, "--min-cosine", "0.5"]
    assert main(["int8", *(str(option) for option in options)]) == 0
    return copied


def test_int8_is_of_both_encoders(in_int8, robust):
    manifest = read_manifest(in_int8)
    assert manifest.digest != read_manifest(robust).digest
    assert manifest.int8 is not None
    plain, found = manifest.int8.image_encoder, manifest.int8.robust_encoder
    assert plain.cosine.same_kind is None
    assert found is not None
    assert found.n_images == plain.n_images == 24
    assert found.cosine.same_kind is not None
    assert found.cosine.same_kind >= 0.5
    assert found.cosine.mean > 0.9
    for model in ("image_encoder", "robust_encoder"):
        name = f"{model}/1/{FILE_NAME}"
        assert manifest.artifacts[name].sha256 == sha256(in_int8 / name)
    text = (in_int8 / "robust_encoder" / "configs" / "cpu-int8.pbtxt").read_text()
    config = text_format.Parse(text, ModelConfig())
    assert config.default_model_filename == FILE_NAME
    contract.test_a_profile_changes_how_a_model_runs_and_not_what_it_is(in_int8)
    assert contract.tensors_of(config.output) == contract.tensors_of(contract.configs(robust)["robust_encoder"].output)


def test_the_first_and_the_last_product_of_both_towers_keep_fp32(in_int8):
    graph = onnx.load(in_int8 / "robust_encoder" / "1" / FILE_NAME).graph
    weights = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Conv", "MatMul", "Gemm")]
    kept = [node for node in products if node.input[1] in weights]
    assert len(kept) == 4
    assert len(products) > 10
    # Images enter by two, cosines with the kinds leave by one and embeddings by the last.
    assert [node.op_type for node in kept].count("Conv") == 2
    assert kept[-1] is products[-1]


def test_openvino_names_the_kinds_that_onnxruntime_names(in_int8):
    """It did not while the controller's normalization left an Expand node: see `Controller.cosines`."""
    path = in_int8 / "robust_encoder" / "1" / FILE_NAME
    pixels = make_noise(24)
    embedding, cosine, _ = onnxruntime.InferenceSession(path).run(None, {"pixels": pixels})
    found = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels)
    np.testing.assert_allclose(found[1], cosine, atol=0.02)
    is_same = found[1].argmax(axis=1) == cosine.argmax(axis=1)
    assert is_same.mean() > 0.7  # prototypes lie near each other here
    assert (found[0] * embedding).sum(axis=1)[is_same] == pytest.approx(1, abs=1e-2)
    graph = onnx.load(path).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    divisors = [made_by.get(node.input[1]) for node in graph.node if node.op_type == "Div"]
    assert divisors.count("Clip") == 2, "of the embedding, and of what names the damage"
    assert "Expand" not in divisors


def test_a_robust_encoder_whose_int8_costs_too_much_keeps_floating_point(
    in_int8, robust, tmp_path, monkeypatch, capsys
):
    """Also where it was in int8 before; the plain encoder is not held back by it."""
    repository = Path(shutil.copytree(in_int8, tmp_path / "repository"))
    measure = int8.measure_agreement

    def spoil(source, target, pixels):
        found = measure(source, target, pixels)
        return found.model_copy(update={"p1": 0.3}) if "robust_encoder" in source.parts else found

    monkeypatch.setattr(int8, "measure_agreement", spoil)
    options = ["--repository", str(repository), "--calibration", str(in_int8.parent), "--min-cosine", "0.5"]
    assert main(["int8", *options]) == 0
    printed = capsys.readouterr().out
    assert "robust_encoder keeps floating point: int8 costs robust_encoder too much" in printed
    assert "cosine with fp32 below 0.3000" in printed
    manifest = read_manifest(repository)
    assert manifest.int8 is not None
    assert manifest.int8.robust_encoder is None
    assert [file for file in manifest.artifacts if file.endswith(FILE_NAME)] == [f"image_encoder/1/{FILE_NAME}"]
    assert not (repository / "robust_encoder" / "1" / FILE_NAME).exists()
    config = Path("robust_encoder", "configs", "cpu-int8.pbtxt")
    assert (repository / config).read_text() == (robust / config).read_text()


def test_the_next_export_takes_int8_away(common, in_int8, robust, repository, tmp_path):
    output = tmp_path / "repository"
    shutil.copytree(in_int8, output)
    model = ["--clip", str(repository.parent / "tiny-clip"), "--controller", str(robust.parent / "controller")]
    assert main([*common, *model, "--output", str(output)]) == 0
    assert not list(output.rglob(FILE_NAME))
    config = (output / "robust_encoder" / "configs" / "cpu-int8.pbtxt").read_text()
    assert config == (robust / "robust_encoder" / "configs" / "cpu-int8.pbtxt").read_text()


def test_the_next_export_without_a_controller_takes_its_models_away(common, robust, repository, tmp_path):
    output = tmp_path / "repository"
    model = ["--clip", str(repository.parent / "tiny-clip"), "--output", str(output)]
    options = [*common, "--template", str(robust)]
    assert main([*options, *model]) == 0
    assert not {path.name for path in output.iterdir()} & set(ADDED_MODELS)
    assert read_manifest(output).robust_encoder is None


def test_a_controller_of_another_encoder_is_refused(common, clip, robust, tmp_path, capsys):
    torch.manual_seed(9)
    save_clip(build_clip(clip.config), tmp_path / "other")
    before = {path: path.read_bytes() for path in robust.rglob("*") if path.is_file()}
    model = ["--clip", str(tmp_path / "other"), "--controller", str(robust.parent / "controller")]
    assert main([*common, *model, "--output", str(robust)]) == 1
    assert "controls another image tower than" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in robust.rglob("*") if path.is_file()} == before


def test_a_da_clip_file_is_model_and_controller(common, clip, tmp_path, capsys, monkeypatch):
    file = tmp_path / "daclip_tiny.pt"
    file.write_bytes(b"read by load_daclip alone")
    monkeypatch.setattr(clip_command, "load_daclip", lambda path: controlled(clip, ("noisy", "hazy")))
    options = [*common, "--controller", str(file), "--output", str(tmp_path / "repository")]
    assert main([*options, "--clip", "folder"]) == 1
    assert "leave out --clip" in capsys.readouterr().err
    assert main(["clip", "--model", "ViT-B-32", "--weights", "random", *options]) == 1
    assert f"clipsr-export --controller {file}" in capsys.readouterr().err
    assert main(options) == 0
    manifest = read_manifest(tmp_path / "repository")
    assert manifest.name == "daclip_tiny"
    assert manifest.robust_encoder is not None
    assert manifest.robust_encoder.kinds == ("noisy", "hazy")


def test_a_controller_that_names_no_kinds_is_refused(common, clip, tmp_path, capsys, monkeypatch):
    file = tmp_path / "wild.pt"
    file.write_bytes(b"read by load_daclip alone")
    monkeypatch.setattr(clip_command, "load_daclip", lambda path: controlled(clip, ()))
    assert main([*common, "--controller", str(file), "--output", str(tmp_path / "repository")]) == 1
    assert "names no kinds of damage" in capsys.readouterr().err
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(("line", "sentence"), [("output [", "lines 'output ['"), ("name: ", "lines 'name: ")])
def test_a_template_that_lacks_a_line_is_refused(repo_root, line, sentence):
    folder = repo_root / "model_repository"
    texts = {path.relative_to(folder): path.read_text() for path in folder.glob("*/config.pbtxt")}
    assert len(derive_configurations(texts)) == len(ROBUST_MODELS)
    broken = {path: text.replace(line, "other") for path, text in texts.items()}
    with pytest.raises(TemplateError, match=re.escape(sentence)):
        derive_configurations(broken)
