"""The int8 image encoder: what is quantized, how it is measured, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from onnx import TensorProto
from PIL import Image

from clipsr_export import ExportPlan, export_repository
from clipsr_export._commands import int8
from clipsr_export._commands.arguments import find_samples
from clipsr_export._graphs.int8 import FILE_NAME, PreparedEncoder, measure_agreement
from clipsr_export._graphs.pictures import make_pictures
from clipsr_export._repository.manifest import Agreement, read_manifest, sha256
from clipsr_export.cli import main
from clipsr_training.clip import save_clip
from clipsr_training.liif import save_liif
from tests.export.tiny import SIZE_PX

N_IMAGES = 16


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Class folders of smooth images, some of them larger than any canvas."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(N_IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        path = folder / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((200, 160) if i % 5 == 0 else (14, 12), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture
def copy(repository, tmp_path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "repository"))


def export(repository: Path, images: Path, *flags: str) -> int:
    return main(["int8", "--repository", str(repository), "--calibration", str(images), *flags])


@pytest.fixture(scope="module")
def quantized(repository, images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    copied = Path(shutil.copytree(repository, folder / "repository"))
    assert export(copied, images, "--min-cosine", "0.5") == 0
    return copied


def test_weights_are_int8_by_channel_and_the_tensors_are_those_of_the_contract(quantized):
    model = onnx.load(quantized / "image_encoder" / "1" / FILE_NAME)
    fp32 = onnx.load(quantized / "image_encoder" / "1" / "model.onnx")
    for mine, theirs in ((model.graph.input, fp32.graph.input), (model.graph.output, fp32.graph.output)):
        assert [(t.name, t.type.tensor_type.elem_type) for t in mine] == [
            (t.name, t.type.tensor_type.elem_type) for t in theirs
        ]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param, "the batch is dynamic"
    weights = [t for t in model.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]
    assert weights
    constants = {t.name: t for t in model.graph.initializer}
    names = {t.name for t in weights}
    scales = [constants[node.input[1]] for node in model.graph.node if node.input and node.input[0] in names]
    assert len(scales) == len(weights)
    assert all(max(scale.dims) > 1 for scale in scales), "a scale for each channel"


def test_the_first_and_the_last_product_keep_fp32(quantized):
    model = onnx.load(quantized / "image_encoder" / "1" / FILE_NAME)
    constants = {t.name for t in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type in ("Conv", "MatMul", "Gemm")]
    kept = [n.name for n in products if n.input[1] in constants]
    assert len(kept) == 2
    assert products[0].name == kept[0]
    assert products[-1].name == kept[1]


def test_openvino_runs_it_in_integers(quantized):
    compiled = openvino.Core().compile_model(str(quantized / "image_encoder" / "1" / FILE_NAME), "CPU")
    infos = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ordered_ops()]
    layers = [(info["layerType"], info["runtimePrecision"]) for info in infos]
    products = [precision for layer, precision in layers if layer in ("Convolution", "FullyConnected", "MatMul")]
    assert {"i8", "u8"} & set(products), layers


def test_openvino_gives_what_onnxruntime_gives(quantized):
    """It did not while L2 normalization left an Expand node: see `clipsr_export._graphs.modules`."""
    path = quantized / "image_encoder" / "1" / FILE_NAME
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"pixels": pixels})
    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert (compiled(pixels)[0] * expected).sum(axis=1) == pytest.approx(1, abs=1e-3)
    *_, before, last = onnx.load(path).graph.node
    assert (before.op_type, last.op_type) == ("Clip", "Div")


def test_the_manifest_holds_the_graph_and_what_it_costs(quantized, repository):
    before, after = (json.loads((folder / "manifest.json").read_text()) for folder in (repository, quantized))
    name = f"image_encoder/1/{FILE_NAME}"
    assert after["artifacts"][name]["sha256"] == sha256(quantized / name)
    assert after["digest"] == read_manifest(quantized).digest != before["digest"]
    assert before["digest"] == read_manifest(repository).digest
    record = after["int8"]["image_encoder"]
    assert record["n_images"] == N_IMAGES
    assert record["cosine"]["n_images"] == N_IMAGES // 4
    assert 0.5 < record["cosine"]["least"] <= record["cosine"]["p1"] <= record["cosine"]["mean"] <= 1.0001


@pytest.mark.slow
def test_a_later_export_takes_it_away(quantized, clip, upscaler, tmp_path, repo_root):
    """It belongs to the graph that is replaced; models of the user's own stay."""
    copied = Path(shutil.copytree(quantized, tmp_path / "repository"))
    (copied / "tensorrt.json").write_text("{}")
    (copied / "own" / "1").mkdir(parents=True)
    (copied / "own" / "1" / "model.py").write_text("")
    plan = ExportPlan(
        name="later",
        clip=clip,
        upscaler=upscaler,
        template=repo_root / "model_repository",
        output=copied,
        samples=(),
        native_min_side_px=1,
        has_text_banks=False,
    )
    manifest = export_repository(plan)
    assert not (copied / "image_encoder" / "1" / FILE_NAME).exists()
    assert not (copied / "tensorrt.json").exists()
    assert not (copied / "similarity" / "text_banks").exists()
    assert (copied / "own" / "1" / "model.py").is_file()
    assert read_manifest(copied) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_an_encoder_agrees_with_itself(repository):
    path = repository / "image_encoder" / "1" / "model.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    agreement = measure_agreement(path, path, pixels)
    assert agreement.n_images == 3
    assert agreement.least == pytest.approx(1, abs=1e-3)  # bf16 beside fp32


def test_a_graph_that_costs_too_much_is_refused_unless_forced(copy, images, monkeypatch, capsys):
    poor = Agreement(n_images=4, mean=0.9, p1=0.8, least=0.8)
    monkeypatch.setattr(int8, "measure_agreement", lambda *_: poor)
    monkeypatch.setattr(int8, "_quantize", lambda plan, source, target, pixels: target.write_bytes(b"x") / 1)
    monkeypatch.setattr(int8, "compare_speed", lambda *_: 1.5)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert export(copy, images) == 1
    assert "1 held-out image in 100 has a cosine with fp32 below 0.8000, and 0.95 is asked" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert export(copy, images, "--force") == 0
    assert (copy / "image_encoder" / "1" / FILE_NAME).is_file()


def test_a_folder_of_images_will_do_without_classes(copy, images, tmp_path, capsys):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in images.rglob("*.png"):
        shutil.copy(path, flat)
    (flat / "ATTRIBUTION.md").write_text("by nobody")
    assert export(copy, flat, "--min-cosine", "0.5") == 0
    assert json.loads((copy / "manifest.json").read_text())["int8"]["image_encoder"]["n_images"] == N_IMAGES


def test_an_export_adds_it_at_once(clip, upscaler, images, repo_root, tmp_path):
    save_clip(clip, tmp_path / "tiny-clip")
    save_liif(upscaler, tmp_path / "liif.safetensors")
    output = tmp_path / "repository"
    words = ["--clip", tmp_path / "tiny-clip", "--upscaler", tmp_path / "liif.safetensors", "--output", output]
    words += ["--template", repo_root / "model_repository", "--samples", repo_root / "samples", "--no-text-banks"]
    assert main([str(word) for word in (*words, "--int8", tmp_path / "nowhere")]) == 1
    assert not output.exists(), "said before anything is exported"
    assert main([str(word) for word in (*words, "--int8", images)]) == 0
    assert (output / "image_encoder" / "1" / FILE_NAME).is_file()


def test_what_is_missing_is_said(copy, images, tmp_path, capsys):
    assert export(tmp_path, images) == 1
    assert "manifest.json is missing; export a model" in capsys.readouterr().err
    assert export(copy, images, "--limit", "4") == 1
    assert "4 images are too few to calibrate on" in capsys.readouterr().err
    (copy / "image_encoder" / "1" / "model.onnx").write_bytes(b"another")
    assert export(copy, images) == 1
    assert "is missing or not what the manifest describes" in capsys.readouterr().err


@pytest.mark.parametrize("grey", ["one", "many"])
def test_images_without_variety_are_refused(copy, tmp_path, capsys, grey):
    folder = tmp_path / "grey"
    folder.mkdir()
    for i in range(N_IMAGES):
        level = 128 if grey == "one" else 10 + 14 * i
        Image.new("RGB", (40, 40), (level, level, level)).save(folder / f"{i}.png")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert export(copy, folder, "--force") == 1
    assert "of 16 images of grey only 0 differ and show more than one colour" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before


def test_a_graph_that_serves_only_images_like_the_calibration_s_is_refused(copy, images, monkeypatch, capsys):
    """Held-out images are of the same kind, and say nothing of others."""

    def measure(source: Path, target: Path, pixels: np.ndarray) -> Agreement:
        value = 0.62 if len(pixels) == 32 else 0.998
        return Agreement(n_images=len(pixels), mean=value, p1=value, least=value)

    monkeypatch.setattr(int8, "measure_agreement", measure)
    monkeypatch.setattr(int8, "_quantize", lambda plan, source, target, pixels: target.write_bytes(b"x") / 1)
    monkeypatch.setattr(int8, "compare_speed", lambda *_: 1.5)
    assert export(copy, images) == 1
    assert "their mean cosine with fp32 is 0.6200, and 0.95 is asked for" in capsys.readouterr().err
    assert not (copy / "image_encoder" / "1" / FILE_NAME).exists()
    assert export(copy, images, "--force") == 0


def test_grey_calibration_of_the_bundled_encoder_is_seen_on_made_pictures(repo_root, tmp_path):
    """0.94 for greys of all levels; calibrated on the photos in samples/, it is 0.998."""
    source = repo_root / "model_repository" / "image_encoder" / "1" / "model.onnx"
    levels = np.linspace(10, 245, 24).astype(np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (24, 3, 64, 64)).copy()
    PreparedEncoder(source, tmp_path).quantize(tmp_path / "grey.onnx", pixels)
    pictures = make_pictures(32, 64)
    assert measure_agreement(source, tmp_path / "grey.onnx", pictures).mean < int8.DEFAULT_MIN_COSINE
    assert measure_agreement(source, source.with_name(FILE_NAME), pictures).mean > 0.99


def test_made_pictures_are_many_and_always_the_same():
    pictures = make_pictures(32, 40)
    assert pictures.shape == (32, 3, 40, 40)
    assert np.array_equal(pictures, make_pictures(32, 40))
    assert len({picture.tobytes() for picture in pictures}) == 32
    assert pictures.std() > 50


@pytest.mark.parametrize(
    "options",
    [["int8", "--calibration", "x", "--limit", "-3"], ["int8", "--calibration", "x", "--limit", "0"]]
    + [["int8", "--calibration", "x", "--min-cosine", value] for value in ("nan", "1.5")]
    + [["--native-min-side", value] for value in ("-5", "0")],
    ids=str,
)
def test_numbers_out_of_range_are_a_wrong_command_line(options, capsys):
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert "must be" in capsys.readouterr().err


def test_images_of_a_folder_are_those_that_training_takes(tmp_path):
    for name in ("a.png", "b.GIF", "c.tif", "._a.png", "d.txt"):
        (tmp_path / name).write_bytes(b"")
    found = ["a.png", "b.GIF", "c.tif"]
    assert [path.name for path in find_samples(tmp_path)] == found
    assert [Path(name).name for name in int8.open_calibration(str(tmp_path)).names] == found
    assert find_samples(tmp_path / "nowhere") == ()
