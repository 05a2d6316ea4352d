"""`--restorer`: the graph of the restorer and the steps of its sampler in a model repository."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from clipsr_export import ExportError, ExportPlan, export_repository
from clipsr_export.cli import main
from clipsr_training.clip import save_clip
from clipsr_training.degradation import KINDS
from clipsr_training.liif import save_liif
from clipsr_training.restoration import Restorer, plan_steps, save_restorer
from tests.export.tiny import make_restorer
from tests.tolerances import RESTORED


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return make_restorer()


@pytest.fixture(scope="module")
def files(tmp_path_factory, clip, upscaler, restorer, repo_root) -> dict[str, Path]:
    """Checkpoints, and the repository that the command line made of them."""
    folder = tmp_path_factory.mktemp("restorer")
    save_clip(clip, folder / "clip")
    save_liif(upscaler, folder / "liif.safetensors")
    save_restorer(restorer, folder / "restorer.safetensors")
    files = {"clip": folder / "clip", "upscaler": folder / "liif.safetensors", "output": folder / "repository"}
    files |= {"template": repo_root / "model_repository", "samples": repo_root / "samples"}
    assert main([*options(files), "--restorer", str(folder / "restorer.safetensors")]) == 0
    return files


def options(files: dict[str, Path]) -> list[str]:
    return ["--no-text-banks", *(word for name, path in files.items() for word in (f"--{name}", str(path)))]


def test_the_manifest_says_what_is_removed_and_how(files):
    manifest = json.loads((files["output"] / "manifest.json").read_text())
    assert [kind["name"] for kind in manifest["restorer"]["kinds"]] == list(KINDS)
    words = [word for kind in manifest["restorer"]["kinds"] for word in (kind["name"], *kind["words"])]
    assert len(set(words)) == len(words)  # each means one kind
    assert "haze" in words
    assert {"denoise/1/model.onnx", "restore/1/sampler.json"} <= manifest["artifacts"].keys()
    for model in ("denoise", "restore"):
        assert f"[ {len(KINDS)} ]  # [C]" in (files["output"] / model / "config.pbtxt").read_text()
    assert (files["output"] / "restore" / "1" / "model.py").is_file()


@torch.inference_mode()
@pytest.mark.parametrize(("batch", "size_hw"), [(1, (8, 4)), (3, (20, 36)), (1, (256, 128))])
def test_the_graph_predicts_what_pytorch_predicts(files, restorer, batch, size_hw):
    rng = np.random.default_rng(1)
    state, lq = rng.random((2, batch, 3, *size_hw), dtype=np.float32)
    contexts = rng.random((2, batch, len(KINDS)), dtype=np.float32)
    session = onnxruntime.InferenceSession(files["output"] / "denoise" / "1" / "model.onnx")
    feeds = {"state": state, "lq": lq, "time": np.full((batch, 1), 37.5, np.float32)}
    (clean,) = session.run(None, feeds | {"content": contexts[0], "degradation": contexts[1]})
    content, degradation = (torch.from_numpy(context) for context in contexts)
    expected = restorer.predict(torch.from_numpy(state), torch.from_numpy(lq), 37.5, (content, degradation))
    assert np.abs(clean - expected.numpy()).max() <= RESTORED
    assert np.abs(clean - lq).max() > 100 * RESTORED  # the network does something


def test_the_sampler_has_the_steps_of_every_number_of_steps(files, restorer):
    sampler = json.loads((files["output"] / "restore" / "1" / "sampler.json").read_text())
    assert sampler["noise_level"] == restorer.schedule.noise_level
    assert sampler["multiple_px"] == 4
    for n, plan in enumerate(sampler["plans"], 1):
        steps = plan_steps(restorer.schedule, "ode-2", n)
        assert [step | {"noise": 0.0} for step in plan] == [vars(step) for step in steps]
    assert len(sampler["plans"]) == 20


def test_a_later_export_without_a_restorer_takes_it_away(files, tmp_path):
    output = tmp_path / "repository"
    again = files | {"output": output}
    assert main([*options(again), "--restorer", str(files["clip"].parent / "restorer.safetensors")]) == 0
    assert (output / "restore").is_dir()
    assert main(options(again)) == 0
    assert not (output / "restore").exists()
    assert not (output / "denoise").exists()
    assert "restorer" not in json.loads((output / "manifest.json").read_text())


def test_a_restorer_that_cannot_be_served_is_refused_first(clip, upscaler, tmp_path, repo_root):
    plan = {
        **{"name": "x", "clip": clip, "upscaler": upscaler, "samples": (), "native_min_side_px": 1},
        **{"template": repo_root / "model_repository", "output": tmp_path / "repository"},
    }
    noise = make_restorer()
    noise.parametrization = "noise"
    for restorer, sentence in ((make_restorer(None), "--contexts kinds"), (noise, "predicts noise")):
        with pytest.raises(ExportError, match=sentence):
            export_repository(ExportPlan(**plan, restorer=restorer))
    assert not (tmp_path / "repository").exists()
