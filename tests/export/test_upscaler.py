"""The dynamic-size graph of every architecture, beside PyTorch; and the fixed-size one of official checkpoints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from PIL import Image

from clipsr_export import ParityError, UpscalerPlan, export_upscaler
from clipsr_export._commands.arguments import find_samples
from clipsr_export._graphs.check import check_graph
from clipsr_export._graphs.modules import UpscaleGraph
from clipsr_export._graphs.onnx import write_onnx
from clipsr_export._upscaler import DynamicUpscaleGraph, _inputs
from clipsr_export.cli import main
from clipsr_serving.backends._openvino_steps import cut_into_steps
from clipsr_training.data import read_image
from clipsr_training.liif import LIIF, ModulatedLIIF, Upscaler, load_liif, save_liif
from clipsr_training.liif._encoders import EDSR, RDN
from tests.tolerances import LEVELS, RAW

# (batch, input, output): whole, fractional and large scales, odd sides, one pixel, unchanged, and exactly halved, where
# every output pixel lies half way between latent codes.
SIZES = [
    (1, (5, 6), (17, 13)),
    (3, (9, 7), (9, 7)),
    (2, (13, 8), (31, 50)),
    (1, (1, 1), (3, 5)),
    (1, (4, 3), (56, 42)),
    (2, (12, 10), (6, 5)),
    (1, (37, 41), (99, 100)),
]
OFFICIAL = [
    "small_all",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("small_no_ensemble", "small_rdn", "small_no_unfold", "small_no_cell", "edsr_baseline_liif")
    ),
]


def edsr_liif(**options: bool) -> LIIF:
    return LIIF(EDSR(n_resblocks=1, n_feats=8), hidden_list=(16, 16), **options)


ARCHITECTURES = {
    "all": edsr_liif,
    "no_ensemble": lambda: edsr_liif(local_ensemble=False),
    "no_unfold": lambda: edsr_liif(feat_unfold=False),
    "no_cell": lambda: edsr_liif(cell_decode=False),
    "none": lambda: edsr_liif(local_ensemble=False, feat_unfold=False, cell_decode=False),
    "rdn": lambda: LIIF(RDN(configuration=(2, 3, 4), n_feats=8), hidden_list=(16, 16)),
    "modulated": lambda: ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16),
}


def make(name: str) -> Upscaler:
    torch.manual_seed(0)
    return ARCHITECTURES[name]().eval()


@pytest.fixture(scope="module")
def modulated_file(tmp_path_factory) -> Path:
    """The command line's own export of a modulated LIIF."""
    folder = tmp_path_factory.mktemp("upscaler")
    save_liif(make("modulated"), folder / "liif.safetensors")
    output = folder / "new" / "upscaler.onnx"
    arguments = ["upscaler", "--checkpoint", folder / "liif.safetensors", "--output", output, "--samples", "samples"]
    assert main([str(a) for a in arguments]) == 0
    return output


@pytest.mark.parametrize(
    "name",
    [name if name in ("modulated", "all") else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES],
)
def test_graph_equals_pytorch_at_any_size(tmp_path, name):
    model, path = make(name), tmp_path / "upscaler.onnx"
    input_type = "float32" if name == "no_cell" else "uint8"
    export_upscaler(UpscalerPlan(upscaler=model, output=path, input_type=input_type))
    assert "GridSample" not in {node.op_type for node in onnx.load(path).graph.node}
    session = onnxruntime.InferenceSession(path)
    for batch, lr_hw, size_hw in SIZES:
        lr = torch.randint(0, 256, (batch, 3, *lr_hw), dtype=torch.uint8)
        lr = lr / 255 if input_type == "float32" else lr
        (sr,) = session.run(None, {"lr": lr.numpy(), "size_hw": np.array(size_hw)})
        with torch.inference_mode():
            expected = model.upscale(lr, size_hw).numpy()
        assert sr.shape == expected.shape == (batch, 3, *size_hw)
        assert np.abs(sr - expected).max() <= RAW, (lr_hw, size_hw)


def test_the_file_says_what_it_takes_and_which_model_it_holds(modulated_file):
    graph = onnx.load(modulated_file).graph
    types = {i.name: onnx.TensorProto.DataType.Name(i.type.tensor_type.elem_type) for i in graph.input}
    assert types == {"lr": "UINT8", "size_hw": "INT64"}
    assert [o.name for o in graph.output] == ["sr"]
    dims = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, "height", "width"]
    metadata = onnxruntime.InferenceSession(modulated_file).get_modelmeta().custom_metadata_map
    described = json.loads(metadata["clipsr.upscaler"])
    assert described["name"] == "modulated-liif"
    assert described["scale_max"] == 4.0


def test_a_graph_that_differs_is_refused_and_the_old_file_stays(tmp_path, modulated_file, monkeypatch):
    output = tmp_path / "upscaler.onnx"
    output.write_bytes(b"what was here before")

    def write_another(module, inputs, output, path, axes) -> None:
        path.write_bytes(modulated_file.read_bytes())

    monkeypatch.setattr("clipsr_export._upscaler.write_onnx", write_another)
    torch.manual_seed(1)
    other = ARCHITECTURES["modulated"]().eval()
    with pytest.raises(ParityError, match=r"upscaler: a pixel \(of \[0, 1\]\)"):
        export_upscaler(UpscalerPlan(upscaler=other, output=output))
    assert output.read_bytes() == b"what was here before"
    assert [p.name for p in tmp_path.iterdir()] == ["upscaler.onnx"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--checkpoint", "nowhere.pth"], "no upscaler checkpoint at nowhere.pth"),
        (["--output", "."], "is a folder; name the ONNX file to write"),
    ],
)
def test_wrong_arguments_say_what_to_do(tmp_path, capsys, monkeypatch, arguments, sentence):
    save_liif(make("modulated"), tmp_path / "liif.safetensors")
    monkeypatch.chdir(tmp_path)
    assert main(["upscaler", "--checkpoint", "liif.safetensors", *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_the_documented_example_upscales_a_photo(tmp_path, modulated_file, repo_root):
    """The Python block of the page, run as it stands in a folder with the files that it names."""
    page = (repo_root / "docs" / "training.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?onnxruntime.*?)```", page, re.DOTALL)
    assert len(code.splitlines()) <= 12
    (tmp_path / "upscaler.onnx").write_bytes(modulated_file.read_bytes())
    with Image.open(repo_root / "samples" / "cat.png") as image:
        image.convert("RGB").resize((30, 21)).save(tmp_path / "photo.png")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    with Image.open(tmp_path / "photo-large.png") as large, Image.open(tmp_path / "photo.png") as small:
        assert large.size == (round(3.5 * 30), round(3.5 * 21))
        lr = torch.from_numpy(np.array(small)).permute(2, 0, 1)
        with torch.inference_mode():
            sr = make("modulated").upscale(lr, (large.height, large.width)).clamp(0, 1) * 255
        difference = np.asarray(large).astype(int) - sr.round().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(difference).max() <= LEVELS


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_checkpoints_export_at_a_fixed_size(tmp_path, golden_dir, name):
    """The folded graph of files in the official format gives what the original implementation gives.

    One batch holds the input of a golden case, rendered whole, and a box of its mirror image.
    """
    model = load_liif(golden_dir / "liif" / f"{name}.pth")
    arrays = np.load(golden_dir / "liif" / f"{name}.npz")
    lr, raw = arrays["lr_0"], arrays["raw_0"]
    _, side, image_size_px = *lr.shape[:2], raw.shape[1]
    graph, path = UpscaleGraph(model, image_size_px), tmp_path / "upscale.onnx"
    sample = {
        "canvas": np.stack((lr, lr[..., ::-1])),
        "box": np.array([[0, 0, side, side], [0.5, 1.25, side - 2, side - 3.5]], np.float32),
    }
    axes = {"canvas": {0: "batch", 2: "height", 3: "width"}, "box": {0: "batch"}}
    example = {key: torch.from_numpy(value) for key, value in sample.items()}
    write_onnx(graph, example, ("pixels",), path, axes, inner=["features"])
    assert "GridSample" not in {node.op_type for node in onnx.load(path).graph.node}
    assert check_graph("upscale", graph, path, [sample]) <= LEVELS
    (pixels,) = onnxruntime.InferenceSession(path).run(None, sample)
    golden = np.round((raw * 0.5 + 0.5).clip(0, 1) * 255)
    assert np.abs(pixels[0] - golden).max() <= LEVELS


def test_the_modulated_graph_is_cut_where_bf16_is_enough(tmp_path):
    """The model repository asks for features and detail by name; the pieces compute what the whole does."""
    graph, path = UpscaleGraph(make("modulated"), 48), tmp_path / "upscale.onnx"
    rng = np.random.default_rng(0)
    sample = {
        "canvas": rng.integers(0, 256, (3, 3, 16, 16), np.uint8),
        "box": np.array([[0, 0, 16, 16], [0.5, 3, 10.5, 10.5], [2, 1, 8, 11]], np.float32),
    }
    axes = {"canvas": {0: "batch", 2: "height", 3: "width"}, "box": {0: "batch"}}
    example = {key: torch.from_numpy(value) for key, value in sample.items()}
    write_onnx(graph, example, ("pixels",), path, axes, inner=graph.upscaler.INNER_TENSORS)
    core = openvino.Core()
    tensors = dict(sample)
    steps = cut_into_steps(core.read_model(path), ("features", "detail"))
    assert [step.is_bf16 for step in steps] == [False, True, False]
    for step in steps:
        outputs = core.compile_model(step.model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
            {name: tensors[name] for name in step.takes}
        )
        tensors |= {name: outputs[name] for name in step.gives or ("pixels",)}
    (whole,) = onnxruntime.InferenceSession(path).run(None, sample)
    assert whole.std() > 1
    assert np.abs(tensors["pixels"].astype(int) - whole).max() <= LEVELS


def test_the_graph_module_is_upscale(seed):
    """The module that is exported and `Upscaler.upscale` are one function; they build the box differently."""
    model, lr = make("all"), torch.rand(2, 3, 6, 9)
    with torch.inference_mode():
        sr = DynamicUpscaleGraph(model)(lr, torch.tensor([20, 31]))
        assert torch.equal(sr, model.upscale(lr, (20, 31)))


def test_samples_are_all_images_and_read_as_the_service_does(tmp_path):
    """A HEIC photo, a hidden file, and 16 bits, which Pillow alone clips to white."""
    Image.new("RGB", (20, 30), "red").save(tmp_path / "a.heic", "HEIF")
    Image.fromarray(np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)).save(tmp_path / "b.png")
    (tmp_path / "._b.png").write_bytes(b"left by macOS")
    samples = find_samples(tmp_path)
    assert [path.name for path in samples] == ["a.heic", "b.png"]
    assert find_samples(tmp_path / "absent") == ()
    plan = UpscalerPlan(upscaler=edsr_liif().eval(), output=tmp_path / "x.onnx", samples=samples, input_type="uint8")
    heic, deep = [inputs["lr"][0].transpose(1, 2, 0) for inputs in _inputs(plan)][-2:]
    assert np.array_equal(heic, read_image(samples[0]))
    assert deep.mean() == pytest.approx(127.5, abs=1)
