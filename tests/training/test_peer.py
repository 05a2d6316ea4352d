"""Our figures beside those of a peer: clip-benchmark's accuracies and OpenCLIP's embeddings, from the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipsr_training._cli.evaluate import main
from clipsr_training.clip import load_clip
from clipsr_training.data import open_set
from clipsr_training.evaluation._backends.torch import TorchBackend
from tests.tolerances import PEER
from tests.training.test_clip_sources import encoded, picture

CLIP_BENCHMARK = "clip-benchmark==1.6.2"
N_IMAGES = 1_500
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """An environment of clip-benchmark's own: the pinned package before ours, whose PyTorch and OpenCLIP it uses."""
    folder = tmp_path_factory.mktemp("clip-benchmark")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), CLIP_BENCHMARK]
    subprocess.run(install, check=True)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_zero_shot_figures_are_those_of_clip_benchmark(environment, data_dir, repo_root, tmp_path, monkeypatch):
    monkeypatch.chdir(repo_root)
    images = open_set(str(data_dir / "cifar10" / "test.parquet")).sample(N_IMAGES)
    for i, target in enumerate(images.targets):
        path = tmp_path / "images" / images.classnames[target] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(images.read(i))
    peer_run = str(Path(__file__).with_name("peer_run.py"))
    checkpoint, folders = "checkpoints/clipsr-small", str(tmp_path / "images")
    command = [sys.executable, "-W", "ignore", peer_run, checkpoint, folders, TEMPLATE]
    completed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    peer = json.loads(completed.stdout.splitlines()[-1])

    options = ["--model", checkpoint, "--route", "native", "--templates", TEMPLATE, "--output", str(tmp_path / "ours")]
    assert main(["zeroshot", "--data", folders, *options]) == 0
    report = json.loads((tmp_path / "ours" / "report.json").read_text("utf-8"))
    assert len(images) == N_IMAGES == sum(entry["n"] for entry in report["per_class"].values())
    ours = {name: report["accuracy"][name]["value"] for name in ("top1", "top5", "mean_per_class")}
    names = {"top1": "acc1", "top5": "acc5", "mean_per_class": "mean_per_class_recall"}
    assert ours == {name: pytest.approx(peer[theirs], abs=1e-12) for name, theirs in names.items()}
    assert ours["top1"] > 0.5  # a model that was trained


def siglip_config() -> dict[str, Any]:
    """OpenCLIP's SigLIP with CLIP's tokenizer: its own is not on this machine."""
    import open_clip  # after clipsr_training, whose import makes torchvision's possible

    config = open_clip.get_model_config("ViT-B-16-SigLIP")
    assert config is not None
    text = {name: value for name, value in config["text_cfg"].items() if "tokenizer" not in name}
    return {**config, "text_cfg": {**text, "vocab_size": 49408}}


def write_random(folder: Path, name: str) -> Path:
    """Write random weights in OpenCLIP's layout."""
    import open_clip

    config = siglip_config() if name == "SigLIP" else open_clip.get_model_config(name)
    assert config is not None
    torch.manual_seed(0)
    settings = {k: v for k, v in config.items() if k != "custom_text"}
    model = open_clip.CustomTextCLIP(**settings) if config.get("custom_text") else open_clip.CLIP(**settings)
    folder.mkdir()
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    half = [0.5, 0.5, 0.5]
    is_siglip = name == "SigLIP"
    preprocess = {
        "mean": half if is_siglip else list(open_clip.OPENAI_DATASET_MEAN),
        "std": half if is_siglip else list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "squash" if is_siglip else "shortest",
    }
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content), "utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu", "SigLIP"])
def test_embeddings_are_those_of_openclip(name, tmp_path):
    import open_clip

    folder = write_random(tmp_path / "random", name)
    images = [picture(i, size) for i, size in enumerate([(300, 200), (224, 224), (60, 90), (32, 32)])]
    texts = ["a photo of a cat.", "", "Ein Bär, 37 % größer"]
    backend = TorchBackend(load_clip(folder), None, name=name)
    files = [encoded(image) for image in images]
    ours = [backend.embed_images(files, ["x"] * 4, route="native"), backend.encode_texts(texts)]

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.inference_mode():
        pixels = torch.stack([preprocess(image) for image in images])  # pyright: ignore
        theirs = [model.eval().encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)]  # pyright: ignore
    for own, peer in zip(ours, theirs, strict=True):
        assert np.abs(own - peer.numpy()).max() < PEER
    assert np.abs(ours[0][0] - ours[0][1]).max() > 100 * PEER  # other images, other embeddings
