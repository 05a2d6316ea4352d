"""A controller in the export: its graph, its models, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from torch.nn import functional
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_export import TemplateError
from clipsr_export._commands import clip as clip_command
from clipsr_export._repository.manifest import read_manifest
from clipsr_export._repository.robust import ROBUST_MODELS, derive_configurations
from clipsr_export.cli import main
from clipsr_training.clip import save_clip
from clipsr_training.clip._checkpoint import build_clip
from clipsr_training.controller import ControlledClip, Controller, save_controller
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
    save_controller(controlled(clip), folder / "controller")
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
    assert described["robust_encoder"] == {"kinds": list(KINDS)}
    assert "robust_encoder" not in manifest
    added = {path.name for path in robust.iterdir()} - {path.name for path in repository.iterdir()}
    assert added == set(ROBUST_MODELS.values())
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


def test_profiles_without_a_form_of_their_own_run_the_graph(robust):
    def read(name: str) -> ModelConfig:
        return text_format.Parse((robust / "robust_encoder" / "configs" / f"{name}.pbtxt").read_text(), ModelConfig())

    assert read("cpu-int8") == read("cpu")
    assert read("gpu-tensorrt") == read("gpu-onnx")
    assert read("cpu").default_model_filename == "model.onnx"
    assert not list((robust / "robust_encoder").rglob("*.int8.onnx"))


def test_the_next_export_without_a_controller_takes_its_models_away(common, robust, repository, tmp_path):
    output = tmp_path / "repository"
    model = ["--clip", str(repository.parent / "tiny-clip"), "--output", str(output)]
    options = [*common, "--template", str(robust)]
    assert main([*options, *model]) == 0
    assert not {path.name for path in output.iterdir()} & set(ROBUST_MODELS.values())
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
