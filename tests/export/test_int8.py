"""The int8 image encoder: what is quantized, how it is measured, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto
from PIL import Image

from clipsr_export import _int8_command
from clipsr_export._int8 import FILE_NAME, Agreement, measure_agreement
from clipsr_export._manifest import digest_of, sha256
from clipsr_export.cli import main

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


def test_onnxruntime_runs_it_in_integers(quantized, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # that such a file belongs to one machine
    onnxruntime.InferenceSession(quantized / "image_encoder" / "1" / FILE_NAME, options)
    operators = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert operators & {"QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}, operators


def test_the_manifest_holds_the_graph_and_what_it_costs(quantized, repository):
    before, after = (json.loads((folder / "manifest.json").read_text()) for folder in (repository, quantized))
    name = f"image_encoder/1/{FILE_NAME}"
    assert after["artifacts"][name]["sha256"] == sha256(quantized / name)
    assert after["digest"] == digest_of(after["artifacts"]) != before["digest"]
    assert digest_of(before["artifacts"]) == before["digest"]
    record = after["int8"]["image_encoder"]
    assert record["n_images"] == N_IMAGES
    assert record["cosine"]["n_images"] == N_IMAGES // 4
    assert 0.5 < record["cosine"]["least"] <= record["cosine"]["p1"] <= record["cosine"]["mean"] <= 1.0001


def test_a_later_export_takes_it_away(quantized, clip, upscaler, tmp_path, repo_root):
    """It belongs to the graph that is replaced."""
    from clipsr_export._repository import _put_in_place

    copied = Path(shutil.copytree(quantized, tmp_path / "repository"))
    (tmp_path / "staging").mkdir()
    _put_in_place(tmp_path / "staging", copied)
    assert not (copied / "image_encoder" / "1" / FILE_NAME).exists()


def test_an_encoder_agrees_with_itself(repository):
    path = repository / "image_encoder" / "1" / "model.onnx"
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    agreement = measure_agreement(path, path, pixels)
    assert agreement.n_images == 3
    assert agreement.least == pytest.approx(1, abs=1e-5)


def test_a_graph_that_costs_too_much_is_refused_unless_forced(copy, images, monkeypatch, capsys):
    poor = Agreement(n_images=4, mean=0.9, p1=0.8, least=0.8)
    monkeypatch.setattr(_int8_command, "measure_agreement", lambda *_: poor)
    monkeypatch.setattr(_int8_command, "quantize_encoder", lambda source, target, pixels: target.write_bytes(b"x"))
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert export(copy, images) == 1
    assert "1 held-out image in 100 has a cosine with fp32 below 0.8000, and 0.95 is asked" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    assert export(copy, images, "--force") == 0
    assert (copy / "image_encoder" / "1" / FILE_NAME).is_file()


def test_what_is_missing_is_said(copy, images, tmp_path, capsys):
    assert export(tmp_path, images) == 1
    assert "manifest.json is missing; export a model" in capsys.readouterr().err
    assert export(copy, images, "--limit", "4") == 1
    assert "4 images are too few to calibrate on" in capsys.readouterr().err
    (copy / "image_encoder" / "1" / "model.onnx").write_bytes(b"another")
    assert export(copy, images) == 1
    assert "is missing or not what the manifest describes" in capsys.readouterr().err
