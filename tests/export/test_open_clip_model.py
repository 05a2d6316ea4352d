"""Exporting a model that OpenCLIP knows by name, from a weight file."""

import json
from pathlib import Path

import open_clip
import pytest
import torch

from clipsr_export.cli import main

# The smallest ViT of OpenCLIP's list that has CLIP's own tokenizer.
MODEL = "ViT-S-32-alt"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Seeded random weights at full size, in OpenCLIP's `.pt` format."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save({"state_dict": open_clip.create_model(MODEL).state_dict()}, path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:open_clip")
def test_a_named_model_is_exported_with_its_own_sizes(tmp_path, weights, repo_root):
    arguments = [
        "clip",
        "--model",
        MODEL,
        "--weights",
        weights,
        "--output",
        tmp_path,
        "--samples",
        repo_root / "samples",
    ]
    upscaler = repo_root / "checkpoints" / "liif-fast" / "liif.safetensors"
    template = repo_root / "model_repository"
    assert main([str(a) for a in (*arguments, "--upscaler", upscaler, "--template", template)]) == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    model_cfg = open_clip.get_model_config(MODEL)
    assert manifest["name"] == MODEL
    assert manifest["image_encoder"]["image_size_px"] == model_cfg["vision_cfg"]["image_size"] == 224
    assert manifest["image_encoder"]["embed_dim"] == model_cfg["embed_dim"]
    assert manifest["text_encoder"]["context_length"] == model_cfg["text_cfg"].get("context_length", 77)
    assert manifest["native_min_side_px"] == 112
    assert "[ 3, 224, 224 ]  # [3, R, R]" in (tmp_path / "upscale" / "config.pbtxt").read_text()


def test_a_file_that_holds_no_weights_is_refused(tmp_path, repo_root, capsys):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"nothing")
    assert main(["clip", "--model", MODEL, "--weights", str(path), "--output", str(tmp_path)]) == 1
    assert str(path) in capsys.readouterr().err
