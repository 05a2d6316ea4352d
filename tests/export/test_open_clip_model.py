"""Models of OpenCLIP's list at full size, untrained: what `make test-slow` exports, one after the other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import open_clip
import pytest
from PIL import Image
from transformers import XLMRobertaConfig

from clipsr_export.cli import main
from tests.export.families import write_tokenizer
from tests.tolerances import COSINE

# (model, image side, interpolation, resize mode, scoring, tokenizer of `families` or None for CLIP's own)
FAMILIES = [
    ("RN50", 224, "bicubic", "shortest", "softmax", None),
    ("RN50x64", 448, "bicubic", "shortest", "softmax", None),
    ("ViT-B-32", 224, "bicubic", "shortest", "softmax", None),
    ("ViT-L-14", 224, "bicubic", "shortest", "softmax", None),
    ("ViT-B-16-SigLIP", 224, "bicubic", "squash", "sigmoid", "tiny-siglip"),
    ("ViT-B-16-SigLIP2", 224, "bicubic", "squash", "sigmoid", "tiny-siglip"),
    ("MobileCLIP-S1", 256, "bilinear", "shortest", "softmax", None),
    ("xlm-roberta-base-ViT-B-32", 224, "bicubic", "shortest", "softmax", "tiny-xlm-roberta"),
    ("ViT-H-14", 224, "bicubic", "shortest", "softmax", None),
]
# Image towers of more than `EXTERNAL_DATA_BYTES`: their weights lie in a file beside the graph.
BEYOND_ONE_FILE = frozenset({"RN50x64", "ViT-H-14"})


@pytest.fixture
def samples(tmp_path, repo_root) -> Path:
    """Two photos: the largest models take seconds for each."""
    folder = tmp_path / "samples"
    folder.mkdir()
    for name in ("cat", "bus"):
        with Image.open(repo_root / "samples" / f"{name}.png") as image:
            image.save(folder / f"{name}.png")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("model", "side", "interpolation", "resize_mode", "function", "kind"), FAMILIES, ids=[row[0] for row in FAMILIES]
)
def test_a_model_of_full_size_is_exported_with_its_own_numbers(
    tmp_path, repo_root, samples, capsys, model, side, interpolation, resize_mode, function, kind
):
    upscaler = repo_root / "checkpoints" / "liif-fast" / "liif.safetensors"
    arguments = ["clip", "--model", model, "--weights", "random", "--no-text-banks", "--upscaler", upscaler]
    arguments += ["--output", tmp_path / "out", "--samples", samples, "--template", repo_root / "model_repository"]
    if kind is not None:
        arguments += ["--tokenizer", write_tokenizer(tmp_path / "tokenizer", kind)]
    if model.startswith("xlm"):
        # The numbers of xlm-roberta-base, and an embedding for each of its 250,002 tokens.
        config = XLMRobertaConfig(
            vocab_size=250002,
            max_position_embeddings=514,
            type_vocab_size=1,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
        )
        config.save_pretrained(tmp_path / "tokenizer")
    assert main([str(argument) for argument in arguments]) == 0
    output = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{model}\n{output}")
    differences = {
        name: float(value)
        for name, value in re.findall(r"^(\w+): .* largest difference .* (\S+)$", output, re.MULTILINE)
    }
    assert max(differences["image_encoder"], differences["text_encoder"]) <= COSINE
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    model_cfg = open_clip.get_model_config(model)
    assert (manifest["name"], manifest["weights"]) == (f"{model}-random", "random")
    image_encoder = manifest["image_encoder"]
    assert (image_encoder["image_size_px"], image_encoder["embed_dim"]) == (side, model_cfg["embed_dim"])
    assert (image_encoder["interpolation"], image_encoder["resize_mode"]) == (interpolation, resize_mode)
    assert manifest["scoring"]["function"] == function
    assert manifest["text_encoder"]["context_length"] == model_cfg["text_cfg"].get("context_length", 77)
    assert manifest["native_min_side_px"] == side // 2
    assert f"[ 3, {side}, {side} ]  # [3, R, R]" in (tmp_path / "out" / "upscale" / "config.pbtxt").read_text()
    assert ("image_encoder/1/model.onnx.data" in manifest["artifacts"]) == (model in BEYOND_ONE_FILE)
