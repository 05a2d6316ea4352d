"""The whole export on an untrained pair, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tritonclient.grpc.model_config_pb2 import ModelConfig

from clipsr_export import ExportPlan, ParityError, TemplateError, export_repository
from clipsr_export._graphs.check import check_graph
from clipsr_export._graphs.modules import UpscaleGraph
from clipsr_export._repository.dims import fill_dims
from clipsr_export._repository.manifest import read_manifest
from clipsr_export._tensorrt.plans import optimization_profiles, planned_models
from clipsr_export.cli import main
from clipsr_training.adapt import RouteRule
from clipsr_training.adapt._rules_file import MeasuredRules, model_digest, write_rules
from clipsr_training.clip import load_clip, save_clip
from clipsr_training.liif import ModulatedLIIF, load_liif, save_liif
from clipsr_training.liif._encoders import EDSR
from tests.export.tiny import CONTEXT, EMBED_DIM, SIZE_PX
from tests.tolerances import COSINE, LEVELS


def test_manifest_describes_the_checkpoint_and_every_artifact(repository, manifest, clip):
    assert manifest["name"] == "tiny-clip"
    assert manifest["image_encoder"]["image_size_px"] == SIZE_PX
    assert manifest["image_encoder"]["embed_dim"] == EMBED_DIM
    assert manifest["text_encoder"]["context_length"] == CONTEXT
    assert manifest["scoring"] == {"function": "softmax", "logit_scale": pytest.approx(1 / 0.07), "logit_bias": 0.0}
    assert manifest["native_min_side_px"] == SIZE_PX // 2
    assert manifest["upscaler"]["receptive_field_px"] == 5  # four convolutions of the encoder, one of the decoder
    graphs = {f"{name}/1/model.onnx" for name in ("upscale", "image_encoder", "text_encoder")}
    assert graphs | {"text_encoder/tokenizer.json"} <= manifest["artifacts"].keys()
    for path, artifact in manifest["artifacts"].items():
        content = (repository / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        assert len(content) == artifact["bytes"]


def test_configurations_carry_the_checkpoint_sizes(repository):
    text = (repository / "image_encoder" / "config.pbtxt").read_text()
    assert f"[ 3, {SIZE_PX}, {SIZE_PX} ]  # [3, R, R]" in text
    assert f"[ {EMBED_DIM} ]  # [D]" in text


def test_graphs_hold_no_grid_sample_and_keep_the_contract(repository):
    expected = {
        "upscale": (["canvas", "box"], ["pixels"]),
        "image_encoder": (["pixels"], ["image_embedding"]),
        "text_encoder": (["tokens"], ["text_embedding"]),
    }
    for name, (inputs, outputs) in expected.items():
        model = onnx.load(repository / name / "1" / "model.onnx")
        assert [i.name for i in model.graph.input] == inputs
        assert [o.name for o in model.graph.output] == outputs
        assert "GridSample" not in {node.op_type for node in model.graph.node}
        (batch,) = {i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input}
        assert batch  # a name: the batch is dynamic


@pytest.mark.parametrize(
    ("batch", "canvas_hw"), [(1, (32, 32)), (5, (64, 64)), (2, (128, 128)), (3, (37, 37)), (2, (30, 41)), (3, (1, 2))]
)
def test_upscale_graph_at_batches_and_canvases_that_export_never_saw(repository, upscaler, batch, canvas_hw):
    rng = np.random.default_rng(1)
    canvas = rng.integers(0, 256, (batch, 3, *canvas_hw), dtype=np.uint8)
    box = rng.uniform(min(canvas_hw) / 32, min(canvas_hw) / 2, (batch, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(repository / "upscale" / "1" / "model.onnx")
    (pixels,) = session.run(None, {"canvas": canvas, "box": box})
    with torch.inference_mode():
        expected, *_ = UpscaleGraph(upscaler, SIZE_PX)(torch.from_numpy(canvas), torch.from_numpy(box))
    assert np.abs(pixels.astype(int) - expected.numpy().astype(int)).max() <= LEVELS


def test_text_banks_hold_mean_embeddings_of_the_prompts(repository, manifest, clip):
    bank = np.load(repository / "similarity" / "text_banks" / "cifar10-cifar.npz")
    assert bank["labels"].tolist() == manifest["label_sets"]["cifar10"]
    assert bank["templates"].tolist() == manifest["template_sets"]["cifar"]
    assert str(bank["digest"]) == manifest["artifacts"]["text_encoder/1/model.onnx"]["sha256"]
    texts = [t.replace("{}", "frog") for t in manifest["template_sets"]["cifar"]]
    with torch.inference_mode():
        embedding = clip.model.encode_text(clip.tokenizer(texts)).numpy()
    mean = (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).mean(axis=0)
    row = bank["text_embedding"][manifest["label_sets"]["cifar10"].index("frog")]
    assert 1 - row @ mean / np.linalg.norm(mean) <= COSINE


@pytest.fixture(scope="module")
def tokenizer(repository) -> Tokenizer:
    return Tokenizer.from_file(str(repository / "text_encoder" / "tokenizer.json"))


@given(texts=st.lists(st.text(alphabet=st.characters(codec="ascii", categories=("L", "N", "P", "Z")), max_size=80)))
def test_tokenizer_file_equals_open_clip_on_clean_text(tokenizer, clip, texts):
    # OpenCLIP unescapes HTML entities first (documented in _tokenizer); '&' would start one.
    texts = [text.replace("&", "and") for text in texts] or [""]
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert ids == clip.tokenizer(texts).tolist()


@pytest.mark.parametrize("text", ["", "一只猫", "🐈‍⬛ black cat", "Café CRÈME", "don't", "x " * 500, "a\tb\n c"])
def test_tokenizer_file_equals_open_clip_on_hard_text(tokenizer, clip, text):
    assert tokenizer.encode(text).ids == clip.tokenizer([text])[0].tolist()


def test_a_graph_that_differs_is_refused(tmp_path, repository, upscaler):
    other = ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval()
    sample = {
        "canvas": np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8),
        "box": np.array([[0, 0, 32, 32]], dtype=np.float32),
    }
    path = repository / "upscale" / "1" / "model.onnx"
    assert check_graph("upscale", UpscaleGraph(upscaler, SIZE_PX), path, [sample]) <= LEVELS
    with pytest.raises(ParityError, match="upscale: a pixel"):
        check_graph("upscale", UpscaleGraph(other, SIZE_PX), path, [sample])


def test_a_failed_export_leaves_the_repository_as_it_was(tmp_path, clip, upscaler, repository, repo_root, monkeypatch):
    output = tmp_path / "repository"
    shutil.copytree(repository, output)
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}

    def refuse(*_: object) -> float:
        raise ParityError("upscale", "a pixel (levels)", 9, 1)

    monkeypatch.setattr("clipsr_export._repository.export.check_graph", refuse)
    plan = ExportPlan(
        name="x",
        clip=clip,
        upscaler=upscaler,
        template=repo_root / "model_repository",
        output=output,
        samples=(),
        native_min_side_px=1,
    )
    with pytest.raises(ParityError):
        export_repository(plan)
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before


@pytest.mark.filterwarnings("ignore:.*smaller than the encoder")
def test_the_route_is_measured_on_photos_and_published(repository, manifest, repo_root, tmp_path):
    output = tmp_path / "repository"
    arguments = ["--clip", repository.parent / "tiny-clip", "--upscaler", repository.parent / "liif.safetensors"]
    measured = ["--photos", repo_root / "samples", "--anchors", "cat,dog,bus", "--no-text-banks"]
    template = ["--template", repo_root / "model_repository", "--output", output]
    assert main([str(a) for a in (*arguments, *measured, *template)]) == 0
    written = json.loads((output / "manifest.json").read_text())
    rules = written["route_rules"]
    assert {(rule["max_side_px"], rule["is_lossy"]) for rule in rules} >= {(12, False), (12, True)}
    assert all(
        rule["route"] == ("upscaled" if rule["upscaled_agreement"] >= rule["native_agreement"] else "native")
        for rule in rules
    )
    assert "route_rules" not in manifest
    assert read_manifest(output).digest == written["digest"]


@pytest.fixture
def planned(monkeypatch) -> Callable[..., ExportPlan]:
    """What a command line of `clipsr-export checkpoints` would export."""
    plans: list[ExportPlan] = []
    monkeypatch.setattr("clipsr_export._commands.clip.export_repository", plans.append)

    def plan(*options: object) -> ExportPlan:
        assert main([str(option) for option in options]) == 0
        return plans[-1]

    return plan


def test_route_rules_come_from_beside_the_weights_they_were_measured_for(repository, tmp_path, planned, capsys):
    folder = tmp_path / "clip"
    shutil.copytree(repository.parent / "tiny-clip", folder)
    upscaler = repository.parent / "liif.safetensors"
    agreement = {"upscaled_agreement": 0.75, "native_agreement": 0.5}
    rule = RouteRule(max_side_px=24, is_lossy=True, route="upscaled", n_images=4, **agreement)
    digest = model_digest(load_clip(folder), load_liif(upscaler))
    write_rules(MeasuredRules(rules=(rule,), model_digest=digest, photos="4 photos"), folder / "route_rules.json")
    assert planned("--clip", folder, "--upscaler", upscaler).route_rules == (rule,)
    other = ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval()
    save_liif(other, tmp_path / "other.safetensors")
    capsys.readouterr()
    others = ["--clip", folder, "--upscaler", tmp_path / "other.safetensors"]
    assert planned(*others).route_rules is None
    assert "route_rules.json was measured with another upscaler" in capsys.readouterr().out
    named = [*others, "--route-rules", folder / "route_rules.json"]
    assert main([str(option) for option in named]) == 1
    assert "was measured for another model or upscaler" in capsys.readouterr().err


def test_the_upscaler_beside_the_weights_renders_for_the_encoder_alone(repository, tmp_path, planned, monkeypatch):
    folder = tmp_path / "clip"
    shutil.copytree(repository.parent / "tiny-clip", folder)
    pictures = tmp_path / "checkpoints" / "liif-fast" / "liif.safetensors"
    pictures.parent.mkdir(parents=True)
    shutil.copy(repository.parent / "liif.safetensors", pictures)
    monkeypatch.chdir(tmp_path)
    other = ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16, scale_max=7.0).eval()
    save_liif(other, folder / "liif.safetensors")

    def scales(*options: object) -> list[float]:
        plan = planned("--clip", folder, *options)
        return [plan.upscaler.scale_max, plan.recipes["clean"].scale_max]

    assert scales() == [7.0, 4.0]
    assert scales("--upscaler", pictures) == [4.0, 4.0]


def test_the_rule_for_none_of_these_comes_from_beside_the_weights(repository, manifest, repo_root, tmp_path, clip):
    folder = tmp_path / "clip"
    shutil.copytree(repository.parent / "tiny-clip", folder)
    (folder / "taught_names.txt").write_text("cat\npickup truck\n")
    rule = {"names": ["cat", "bus"], "max_label_cosine": 0.8, "temperature": 1.5, "bias": 0.25, "threshold": 0.5}
    figures = {"false_refusals": 0.05, "auroc": 0.9, "expected_calibration_error": 0.03, "data": "40 images"}
    (folder / "none_of_these.json").write_text(json.dumps({**rule, **figures}))
    output = tmp_path / "repository"
    arguments = ["--clip", folder, "--upscaler", repository.parent / "liif.safetensors", "--no-text-banks"]
    template = ["--template", repo_root / "model_repository", "--output", output]
    assert main([str(a) for a in (*arguments, *template)]) == 0
    written = json.loads((output / "manifest.json").read_text())
    entry = written["none_of_these"]
    assert {name: entry[name] for name in figures} == figures
    assert (entry["name_count"], entry["temperature"], entry["bias"], entry["threshold"]) == (2, 1.5, 0.25, 0.5)
    assert written["taught_names"] == ["cat", "pickup truck"]
    assert entry["file"] in written["artifacts"]
    bank = np.load(output / entry["file"])
    assert bank["labels"].tolist() == rule["names"]
    assert str(bank["digest"]) == written["artifacts"]["text_encoder/1/model.onnx"]["sha256"]
    with torch.inference_mode():
        embedding = clip.model.encode_text(clip.tokenizer(["a photo of a bus."])).numpy()[0]
    assert 1 - bank["text_embedding"][1] @ embedding / np.linalg.norm(embedding) <= COSINE
    assert not {"none_of_these", "taught_names"} & manifest.keys()


def picture_options(folder) -> list[str]:
    """Another upscaler for pictures, the same file for both recipes."""
    torch.manual_seed(1)
    other = ModulatedLIIF(EDSR(n_resblocks=2, n_feats=8), latent_dim=16, scale_max=8.0).eval()
    save_liif(other, folder / "other.safetensors")
    same = shutil.copy(folder / "other.safetensors", folder / "same.safetensors")
    return ["--picture-upscaler", str(folder / "other.safetensors"), "--robust-upscaler", str(same)]


def test_pictures_get_models_of_their_own(repository, repo_root, tmp_path):
    output = tmp_path / "repository"
    common = ["--clip", repository.parent / "tiny-clip", "--upscaler", repository.parent / "liif.safetensors"]
    common += ["--no-text-banks", "--template", repo_root / "model_repository", "--output", output]
    assert main([str(a) for a in (*common, *picture_options(tmp_path))]) == 0
    manifest = read_manifest(output)
    assert manifest.upscale_recipes is not None
    clean, robust = (manifest.upscale_recipes[name] for name in ("clean", "robust"))
    assert clean == robust, "equal files are one model"
    assert (clean.model, clean.scale_max, clean.receptive_field_px) == ("upscale_clean", 8.0, 7)
    assert manifest.upscaler.scale_max == 4.0
    assert planned_models(manifest) == ("upscale", "image_encoder", "text_encoder", "upscale_clean")
    windows = [optimization_profiles(m, manifest, max_batch=2)[-1]["canvas"] for m in ("upscale", "upscale_clean")]
    assert windows[0].most <= windows[1].most
    for name in ("config.pbtxt", "configs/cpu.pbtxt", "configs/gpu-tensorrt.pbtxt"):
        encoders, pictures = (
            text_format.Parse((output / m / name).read_text(), ModelConfig()) for m in ("upscale", "upscale_clean")
        )
        assert pictures.name == "upscale_clean"
        pictures.name = "upscale"
        assert len(encoders.model_warmup) > 1
        del encoders.model_warmup[1:]  # no memory is planned for what most services are never asked
        assert pictures == encoders
    assert (output / "upscale_clean" / "warmup" / "box").is_file()
    canvas = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
    feed = {"canvas": canvas, "box": np.array([[0, 0, 32, 32]], dtype=np.float32)}
    rendered = [
        onnxruntime.InferenceSession(output / m / "1" / "model.onnx").run(None, feed)[0]
        for m in ("upscale", "upscale_clean")
    ]
    assert not np.array_equal(*rendered)


@pytest.mark.slow
def test_models_for_pictures_that_the_next_export_does_not_want_are_gone(repository, repo_root, tmp_path):
    output, template = tmp_path / "repository", repo_root / "model_repository"
    upscaler = repository.parent / "liif.safetensors"
    for source, options in ((template, picture_options(tmp_path)), (output, ["--robust-upscaler", upscaler])):
        common = ["--clip", repository.parent / "tiny-clip", "--upscaler", upscaler, "--no-text-banks"]
        assert main([str(a) for a in (*common, "--template", source, "--output", output, *options)]) == 0
        assert (output / "upscale_clean").exists() == (source == template)
    recipes = read_manifest(output).upscale_recipes
    assert recipes is not None
    assert {name: recipe.model for name, recipe in recipes.items()} == {"clean": "upscale", "robust": "upscale"}


def test_an_export_without_recipes_is_as_before(manifest):
    assert "upscale_recipes" not in manifest


def test_dims_are_rewritten_from_their_comment():
    line = "    dims: [ 3, 64, 64 ]  # [3, R, R]\n    dims: [ 4 ]\n    dims: [ -1 ]  # [K]\n"
    assert fill_dims(line, {"R": 224}) == line.replace("64, 64", "224, 224")
    with pytest.raises(TemplateError, match="unknown size 'Q'"):
        fill_dims("dims: [ 1 ]  # [Q]", {"R": 1})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--clip", "nowhere"], "no open_clip_config.json in nowhere"),
        (["clip", "--model", "ViT-Z", "--weights", "x.pt"], "OpenCLIP knows no model 'ViT-Z'"),
        (["--upscaler", "nowhere.pth"], "no upscaler checkpoint at nowhere.pth"),
    ],
)
def test_wrong_arguments_say_what_to_do(tmp_path, clip, capsys, monkeypatch, arguments, sentence):
    save_clip(clip, tmp_path / "checkpoints" / "clipsr-small")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert sentence in capsys.readouterr().err
