"""A controller on its whole way: trained on photos, exported, served, and asked by the command and the client."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from clipsr import Client, InvalidRequestError
from clipsr.local import Classifier
from clipsr_export.cli import main as export
from clipsr_training._cli.train import main as train
from clipsr_training.clip import load_clip, save_clip
from clipsr_training.controller import ControlledClip, DamageHead, load_controller, save_controller
from clipsr_training.liif import ModulatedLIIF, save_liif
from clipsr_training.liif._encoders import EDSR
from clipsr_training.restoration import save_restorer
from clipsr_training.restoration._contexts import KindContexts
from clipsr_training.restoration._module import build_restorer
from clipsr_training.restoration._recipe import RestorerRecipe
from tests.integration.conftest import running
from tests.training.made_images import class_folders
from tests.training.tiny_clips import tiny_clip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LABELS = ("red", "green", "blue")


def run(main, *arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def test_a_controller_trains_exports_and_serves(tmp_path: Path, repo_root, serve_bin):
    save_clip(tiny_clip("resnet"), tmp_path / "clip")
    save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval(), tmp_path / "liif.safetensors")
    images = class_folders(tmp_path / "images", per_class=8)
    model = ("--model", tmp_path / "clip", "--upscaler", tmp_path / "liif.safetensors")
    options = ("--draws", 8, "--batch-size", 4, "--precision", "32-true", "--workers", 0, "--kinds", "noisy,hazy")
    run(train, "controller", *model, "--data", images, *options, "--output", tmp_path / "run")
    pair = load_controller(tmp_path / "run" / "controller", load_clip(tmp_path / "clip"))
    everything = DamageHead(weight=np.zeros(pair.clip.embed_dim, np.float32), bias=1.0)
    controller = save_controller(replace(always_steering(pair), head=everything), tmp_path / "controller")
    restorer = build_restorer(RestorerRecipe(contexts="kinds"), KindContexts())
    save_restorer(restorer, tmp_path / "restorer.safetensors")
    parts = ("--clip", tmp_path / "clip", "--upscaler", tmp_path / "liif.safetensors", "--controller", controller)
    parts += ("--restorer", tmp_path / "restorer.safetensors")
    parts += ("--no-text-banks", "--template", repo_root / "model_repository", "--output", tmp_path / "repository")
    run(export, *parts)
    photo = next(images.rglob("*.png"))
    with running(serve_bin, tmp_path / "repository", tmp_path / "state", "--profile", "cpu-onnx") as service:
        asked = service.cli("classify", photo, "--labels", ",".join(LABELS), "--format", "json", "--encoder", "robust")
        assert asked.returncode == 0, asked.stderr
        (record,) = map(json.loads, asked.stdout.splitlines())
        assert {each["kind"] for each in record["degradations"]} == {"noisy", "hazy", "clean"}
        assert sum(each["probability"] for each in record["degradations"]) == pytest.approx(1, abs=1e-5)
        with Client(service.url, timeout_s=60) as client:
            for route in ("upscaled", "native"):
                compare_with_torch(client, photo, route, pair)
            compare_with_restore(client, photo)
            compare_with_local(client, tmp_path / "repository", [photo, b"no image"])


def compare_with_local(client: Client, repository: Path, images: list) -> None:
    local = Classifier.load(repository, profile="cpu-onnx")
    for encoder in ("plain", "robust", "auto"):
        (there, failed), (here, not_read) = (
            each.classify(images, LABELS, encoder=encoder, top_k=0) for each in (client, local)
        )
        assert failed == not_read
        assert here.encoder == there.encoder == ("plain" if encoder == "plain" else "robust")
        for field in ("predictions", "degradations"):
            ours, theirs = (
                {getattr(each, "label", None) or each.kind: each.cosine for each in getattr(outcome, field)}
                for outcome in (here, there)
            )
            assert ours == pytest.approx(theirs, abs=1e-5)


@torch.no_grad()
def always_steering(pair: ControlledClip) -> ControlledClip:
    """So few steps change little: connections become random, and no image is clean."""
    torch.manual_seed(0)
    for parameter in pair.controller.connections.parameters():
        parameter.normal_(std=0.1)
    side = pair.clip.image_size_px
    pair.controller.prototypes[pair.controller.clean] = -pair.controller(torch.zeros(1, 3, side, side)).degradation[0]
    return pair


def compare_with_torch(client: Client, photo: Path, route: str, pair) -> None:
    options = {"route": route, "return_embedding": True, "return_encoder_input": True}
    (robust,) = client.classify([photo], LABELS, encoder="robust", **options)
    (plain,) = client.classify([photo], LABELS, **options)
    assert (robust.encoder, plain.encoder, plain.degradations) == ("robust", "plain", ())
    assert robust.encoder_input == plain.encoder_input
    pixels = torch.from_numpy(np.asarray(Image.open(io.BytesIO(robust.encoder_input)).convert("RGB")).copy())
    mean, std = (torch.tensor(values) for values in (pair.clip.mean, pair.clip.std))
    with torch.inference_mode():
        seen = ((pixels / 255 - mean) / std).permute(2, 0, 1)[None]
        expected = pair.encode(seen)
        alone = pair.clip.encode_image(seen)
    for outcome, embedding in ((robust, expected.content), (plain, alone)):
        own = functional.normalize(embedding, dim=-1)[0].numpy()
        assert 1 - own @ np.array(outcome.embedding) <= 1e-4
    assert 1 - np.array(robust.embedding) @ np.array(plain.embedding) > 1e-3
    order = expected.cosines[0].argsort(descending=True).tolist()
    assert [each.kind for each in robust.degradations] == [pair.controller.kinds[i] for i in order]


def compare_with_restore(client: Client, photo: Path) -> None:
    """What is embedded again, and what is restored, has the damage that the robust encoder names."""
    (robust,) = client.classify([photo], LABELS, encoder="robust")
    (auto,) = client.classify([photo], LABELS, encoder="auto")
    assert (auto.encoder, auto.degradations) == ("robust", robust.degradations)
    assert auto.predictions == robust.predictions
    (embedded,) = client.embed_images([photo], encoder="robust")
    assert (embedded.encoder, embedded.degradations) == ("robust", robust.degradations)
    restored = client.restore(photo, steps=2, upscale=2)
    assert restored.detected == robust.degradations
    assert (restored.removed, restored.steps) == ((), 2)
    assert restored.output_hw == tuple(2 * side for side in restored.size_hw)
    with Image.open(io.BytesIO(restored.content)) as image:
        assert image.size[::-1] == restored.output_hw


def test_a_model_without_a_controller_says_what_to_do(service, client, repo_root):
    photo = repo_root / "samples" / "cat.png"
    with pytest.raises(InvalidRequestError, match="clipsr-export --controller") as caught:
        client.classify([photo], LABELS, encoder="robust")
    assert caught.value.reason == "ENCODER_MISSING"
    assert not client.model_info().degradation_kinds
    asked = service.cli("classify", photo, "--labels", "cat,dog", "--encoder", "robust")
    assert (asked.returncode, asked.stdout) == (2, "")
