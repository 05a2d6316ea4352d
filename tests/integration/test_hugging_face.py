"""Folders of `transformers` on their whole way: trained on, evaluated, exported, served, and asked by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipsr_export.cli import main as export
from clipsr_training._cli.evaluate import main as evaluate
from clipsr_training._cli.train import main as train
from clipsr_training.liif import ModulatedLIIF, save_liif
from clipsr_training.liif._encoders import EDSR
from tests.integration.conftest import running
from tests.training.made_images import class_folders
from tests.training.test_hugging_face import clip, siglip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(main, *arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("make", [clip, siglip])
def test_a_folder_trains_evaluates_exports_and_serves(tmp_path: Path, repo_root, serve_bin, make):
    make(tmp_path / "theirs")
    images = class_folders(tmp_path / "images", per_class=8)
    options = ("--epochs", 1, "--batch-size", 4, "--validation-per-class", 1, "--precision", "32-true")
    run(train, "clip", "--model", tmp_path / "theirs", "--data", images, *options, "--output", tmp_path / "run")
    tuned = tmp_path / "run" / "clip"
    for model in (tmp_path / "theirs", tuned):
        report = tmp_path / f"report-{model.name}"
        run(evaluate, "zeroshot", "--data", images, "--model", model, "--route", "native", "--output", report)
        assert json.loads((report / "report.json").read_text())["n_images"] == 24
    save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval(), tmp_path / "liif.safetensors")
    parts = ("--clip", tuned, "--upscaler", tmp_path / "liif.safetensors", "--samples", repo_root / "samples")
    parts += ("--no-text-banks", "--template", repo_root / "model_repository")
    run(export, *parts, "--output", tmp_path / "repository")
    with running(serve_bin, tmp_path / "repository", tmp_path / "state") as service:
        photo = next(images.rglob("*.png"))
        asked = service.cli("classify", photo, "--labels", "red,green,blue", "--format", "json")
        assert asked.returncode == 0, asked.stderr
        (record,) = map(json.loads, asked.stdout.splitlines())
        assert {prediction["label"] for prediction in record["predictions"]} == {"red", "green", "blue"}
        assert sum(prediction["probability"] for prediction in record["predictions"]) > 0
