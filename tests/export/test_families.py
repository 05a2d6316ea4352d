"""Every kind of model that OpenCLIP has, small: graphs, tokenizers, and what the manifest says of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from clipsr_export._graphs.check import check_graph
from clipsr_export._graphs.modules import ImageEncoderGraph, TextEncoderGraph
from clipsr_export._graphs.onnx import write_onnx
from clipsr_export._tokenizer.build import build_tokenizer
from clipsr_export.cli import main
from clipsr_training.clip import ClipCheckpoint, load_open_clip
from clipsr_training.liif import ModulatedLIIF, save_liif
from clipsr_training.liif._encoders import EDSR
from tests.export.families import HUB_MODELS, MODELS, register, write_tokenizer
from tests.tolerances import COSINE

TEXTS = ["a photo of a cat.", "", "一只猫", "a very long caption " * 9]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Folders with the tokenizers that a hub would have."""
    root = tmp_path_factory.mktemp("hub")
    (root / "configs").mkdir()
    register(root / "configs")
    return {name: write_tokenizer(root / name, name) for name in HUB_MODELS}


@pytest.fixture(params=sorted(MODELS))
def checkpoint(request, folders) -> ClipCheckpoint:
    return load_open_clip(request.param, "random", tokenizer=folders.get(request.param))


def test_the_image_tower_in_onnx_computes_what_pytorch_does(tmp_path, checkpoint, graphs_written_once):
    graph = ImageEncoderGraph(checkpoint)
    side = checkpoint.image_size_px
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, side, side), dtype=np.uint8)
    example = {"pixels": torch.from_numpy(pixels)}
    graphs_written_once(graph, example, ("image_embedding",), tmp_path / "model.onnx", {"pixels": {0: "batch"}})
    # Two batch sizes that the exporter did not see.
    samples = [{"pixels": pixels}, {"pixels": pixels[:1]}, {"pixels": pixels[[0, 1, 2, 0, 1]]}]
    assert check_graph("image_encoder", graph, tmp_path / "model.onnx", samples) <= COSINE
    assert not (tmp_path / "model.onnx.data").exists()


def test_the_text_tower_in_onnx_computes_what_pytorch_does(tmp_path, checkpoint, graphs_written_once):
    graph = TextEncoderGraph(checkpoint)
    tokens = checkpoint.tokenizer(TEXTS)
    assert tokens.shape == (len(TEXTS), checkpoint.context_length)
    graphs_written_once(
        graph, {"tokens": tokens}, ("text_embedding",), tmp_path / "model.onnx", {"tokens": {0: "batch"}}
    )
    samples = [{"tokens": tokens.numpy()}, {"tokens": tokens[:1].numpy()}, {"tokens": tokens[[0, 1, 2, 3, 0]].numpy()}]
    assert check_graph("text_encoder", graph, tmp_path / "model.onnx", samples) <= COSINE


def test_large_graphs_keep_their_weights_beside_them(tmp_path, folders, monkeypatch):
    monkeypatch.setattr("clipsr_export._graphs.onnx.EXTERNAL_DATA_BYTES", 10_000)
    graph = ImageEncoderGraph(load_open_clip("tiny-vit", "random"))
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    write_onnx(graph, {"pixels": pixels}, ("image_embedding",), tmp_path / "model.onnx", {"pixels": {0: "batch"}})
    assert (tmp_path / "model.onnx.data").stat().st_size > (tmp_path / "model.onnx").stat().st_size
    assert check_graph("image_encoder", graph, tmp_path / "model.onnx", [{"pixels": pixels.numpy()}]) <= COSINE


def test_the_tokenizers_file_gives_the_checkpoint_s_ids(tmp_path, checkpoint):
    build_tokenizer(checkpoint).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [
        *TEXTS,
        "Tea_Pot!  isn't",
        "</s>",
        "<pad> x <mask> y",
        " a\tb\n",
        "ＡＢＣ “q” ﬁ",
        "don&t",
        "Ελλάς ΟΔΟΣ",
        "x" * 3000,
    ]
    for text, ids in zip(texts, checkpoint.tokenizer(texts).tolist(), strict=True):
        assert tokenizer.encode(text).ids == ids, text


@pytest.fixture
def arguments(tmp_path, repo_root) -> list[str]:
    """Options of an export that is quick: a small upscaler, one sample, no text banks."""
    torch.manual_seed(0)
    save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval(), tmp_path / "liif.safetensors")
    (tmp_path / "samples").mkdir()
    with Image.open(repo_root / "samples" / "cat.png") as image:
        image.save(tmp_path / "samples" / "cat.png")
    options = ["--upscaler", tmp_path / "liif.safetensors", "--samples", tmp_path / "samples", "--no-text-banks"]
    options += ["--template", repo_root / "model_repository", "--output", tmp_path / "repository"]
    return [str(option) for option in options]


def test_random_weights_are_exported_loudly_with_everything_the_configuration_says(
    tmp_path, folders, arguments, capsys
):
    command = ["clip", "--model", "tiny-siglip", "--weights", "random", "--tokenizer", str(folders["tiny-siglip"])]
    assert main([*command, *arguments]) == 0
    assert "WARNING: the weights are RANDOM" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "repository" / "manifest.json").read_text())
    assert (manifest["name"], manifest["weights"]) == ("tiny-siglip-random", "random")
    assert manifest["scoring"] == {"function": "sigmoid", "logit_scale": pytest.approx(1 / 0.07), "logit_bias": -10}
    assert manifest["text_encoder"] == {"context_length": 16, "vocab_size": 256, "pad_token_id": 1}
    assert manifest["image_encoder"]["image_size_px"] == 160
    assert manifest["native_min_side_px"] == 80
    assert manifest["text_banks"] == []
    session = onnxruntime.InferenceSession(tmp_path / "repository" / "text_encoder" / "1" / "model.onnx")
    (text_embedding,) = session.run(None, {"tokens": np.ones((2, 16), np.int64)})
    assert text_embedding.shape == (2, manifest["image_encoder"]["embed_dim"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "ViT-Z", "--weights", "x.pt"], "OpenCLIP knows no model 'ViT-Z'"),
        (["--model", "ViT-B/33", "--weights", "random"], "did you mean ViT-B-32"),
        (["--model", "RN50", "--weights", "lost.pt"], "no such file: lost.pt"),
        (["--model", "tiny-siglip", "--weights", "random", "--tokenizer", "nowhere"], "the tokenizer nowhere can't be"),
        (
            ["--model", "tiny-vit", "--weights", "random", "--upscaler", "lost.pth"],
            "no upscaler checkpoint at lost.pth",
        ),
    ],
)
def test_what_is_missing_is_named_in_one_line(folders, arguments, capsys, options, sentence):
    assert main(["clip", *arguments, *options]) == 1
    error = capsys.readouterr().err.strip()
    last = error.splitlines()[-1]
    assert last.startswith("clipsr-export: ")
    assert sentence in last
