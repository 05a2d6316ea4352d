"""Numbers that are not finite end a run or a measurement in one sentence; none of them is counted or written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipsr_training._cli.train import main as train_main
from clipsr_training._files import to_json
from clipsr_training._fit import FitOptions
from clipsr_training.clip import ClipCheckpoint, load_clip
from clipsr_training.clip._rendering import Renderer, Rendering
from clipsr_training.clip._train import ClipTrainingModule
from clipsr_training.data import open_set
from clipsr_training.evaluation._backends.base import Scoring, require_finite
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.evaluation._log import RunLog, read_log
from clipsr_training.evaluation._zero_shot import ZeroShotPlan, measure_zero_shot
from clipsr_training.liif import ModulatedLIIF
from clipsr_training.liif._encoders import EDSR
from clipsr_training.liif._evaluate import upscale_uint8
from clipsr_training.liif._recipes import LiifRecipe
from clipsr_training.liif._train import LiifTrainingModule, train_liif
from tests.training.made_images import class_folders

SHIPPED = Path("checkpoints/clipsr-small")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, repo_root) -> None:
    monkeypatch.chdir(repo_root)


def diverging(parquet: Path, output: Path, *options: str) -> list[str]:
    command = ["clip", "--data", str(parquet), "--batch-size", "8", "--precision", "32-true", "--output", str(output)]
    return [*command, "--lr", "1e9", "--muon-lr", "1e9", *options]


def test_a_run_stops_at_the_first_loss_that_is_not_finite(tmp_path, parquet, capsys):
    assert train_main(diverging(parquet, tmp_path / "run", "--epochs", "3")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("clipsr-train: training diverged at step ")
    assert "lower learning rates" in error
    assert not (tmp_path / "run" / "clip").exists()


def test_the_checkpoint_before_is_kept(tmp_path, parquet, capsys, monkeypatch):
    """The second epoch's loss is infinite; the first epoch's checkpoint survives."""
    step = ClipTrainingModule.training_step

    def diverge(self: ClipTrainingModule, batch: object, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        return loss / 0 if self.current_epoch == 1 else loss

    monkeypatch.setattr(ClipTrainingModule, "training_step", diverge)
    run = tmp_path / "run"
    command = ["clip", "--data", str(parquet), "--batch-size", "6", "--epochs", "2", "--output", str(run)]
    assert train_main(command) == 1
    error = capsys.readouterr().err
    assert "training diverged at step 4: the loss is inf" in error
    assert f"{run / 'last.ckpt'} holds the weights of an earlier step" in error
    state = torch.load(run / "last.ckpt", weights_only=False)
    assert state["global_step"] == 3
    assert all(v.isfinite().all() for v in state["state_dict"].values() if v.is_floating_point())


def test_weights_that_the_last_step_ruined_are_not_saved(tmp_path, image_folder, monkeypatch):
    """Every loss is finite; the last update of the segment is not."""

    def ruin(self: LiifTrainingModule, *_: object) -> None:
        next(self.parameters()).data[0] = float("nan")

    monkeypatch.setattr(LiifTrainingModule, "on_train_batch_end", ruin)
    recipe = LiifRecipe(architecture="fast", patch_size=16, sample_q=16, batch_size=1, steps=1)
    options = FitOptions(output=tmp_path / "run", precision="32-true", devices="1", n_workers=0)
    with pytest.raises(ValueError, match="diverged at step 2: weights are not finite"):
        train_liif(recipe, [image_folder], options)
    assert not list((tmp_path / "run").glob("*.ckpt"))
    assert not (tmp_path / "run" / "liif.safetensors").exists()


def ruined(part: str) -> ClipCheckpoint:
    """The shipped model with one tensor of NaN."""
    checkpoint = load_clip(SHIPPED)
    with torch.no_grad():
        checkpoint.model.state_dict()[part].view(-1)[0] = float("nan")
    return checkpoint


@pytest.mark.parametrize("part", ["visual.conv1.weight", "text_projection"])
def test_a_tower_that_is_not_finite_has_no_accuracy(part, tmp_path):
    backend = TorchBackend(ruined(part), None, name="ruined")
    images = open_set(str(class_folders(tmp_path / "colours")))
    plan = ZeroShotPlan(backend=backend, images=images, templates=("@simple",), route="native", batch_size=4)
    (tmp_path / "report").mkdir()
    with pytest.raises(ValueError, match="the model's embeddings are not finite numbers"):
        measure_zero_shot(plan, tmp_path / "report", resume=False)
    assert read_log(tmp_path / "report" / "images.jsonl")[1] == []


def test_a_scale_that_is_not_finite_makes_no_probabilities():
    with pytest.raises(ValueError, match="logit_scale or logit_bias are not finite"):
        Scoring(function="softmax", logit_scale=float("nan"))
    assert require_finite(np.arange(3, dtype=np.uint8), "pixels").tolist() == [0, 1, 2]


def test_an_upscaler_that_is_not_finite_renders_nothing():
    """Neither in training nor in `eval sr` nor in evaluation is NaN taken for black."""
    model = ModulatedLIIF(EDSR(n_resblocks=1, n_feats=4), latent_dim=8, hidden_dim=4)
    for value in model.state_dict().values():
        value.view(-1)[0] = float("nan")
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="renders pixels that are not finite"):
        upscale_uint8(model, pixels, (16, 16))
    checkpoint = load_clip(SHIPPED)
    backend = TorchBackend(checkpoint, model, name="x")
    with pytest.raises(ValueError, match="renders pixels that are not finite"):
        backend.upscale(np.zeros((1, 3, 32, 32), dtype=np.uint8), np.array([[0, 0, 32, 32]], dtype=np.float32))
    for scale in (None, 2.0):
        renderer = Renderer(Rendering(upscaler="bicubic", scale=scale), checkpoint)
        renderer.liif = model
        with pytest.raises(ValueError, match="renders pixels that are not finite"):
            renderer([Image.fromarray(pixels)])


def test_json_holds_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"a": float("nan")})
    log = RunLog(tmp_path / "log.jsonl", {"a": 1}, resume=False)
    with log, pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"cosine": float("nan")})
    (tmp_path / "log.jsonl").write_text('{"settings": {"a": 1}}\n{"cosine": NaN}\n', "utf-8")
    with pytest.raises(ValueError, match=r"log\.jsonl is no log of clipsr-eval"):
        read_log(tmp_path / "log.jsonl")
    assert json.loads(to_json({"é": 1.5})) == {"é": 1.5}
