"""Weights that are not numbers are refused where they are loaded and where they are written."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from clipsr_training.clip import ClipCheckpoint, load_clip, save_clip
from clipsr_training.clip._average import average_clips
from clipsr_training.clip._checkpoint import WEIGHTS_NAME, build_clip
from clipsr_training.clip._errors import NotFiniteError
from clipsr_training.clip._weights import ClipWeights, load_weights
from clipsr_training.liif import CheckpointFormatError, ModulatedLIIF, load_liif, save_liif
from clipsr_training.liif._encoders import EDSR

VALUES = [math.nan, math.inf, -math.inf]


@pytest.fixture(scope="module")
def clip() -> ClipCheckpoint:
    vision = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    return build_clip(
        {"model_cfg": {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {"std": [1, 1, 1]}}
    )


def spoil(folder: Path, name: str, value: float) -> Path:
    """Put a value into a tensor of a checkpoint folder."""
    state = load_file(folder / WEIGHTS_NAME)
    state[name].view(-1)[0] = value
    save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", ["logit_scale", "visual.conv1.weight"])
def test_a_folder_with_a_weight_that_is_no_number_is_refused_by_its_name(tmp_path, clip, name, value):
    folder = spoil(save_clip(clip, tmp_path / "clip"), name, value)
    with pytest.raises(NotFiniteError, match=rf"safetensors: 1 of \d+ tensors hold .* not finite \({name}\)"):
        load_clip(folder)


def test_a_file_of_a_named_model_is_refused(clip):
    state = {**clip.model.state_dict(), "ln_final.bias": torch.tensor([math.nan] * 16)}
    weights = ClipWeights(state=state, is_openai=False)
    with pytest.raises(NotFiniteError, match=r"weights\.pt: 1 of .*ln_final\.bias"):
        load_weights(copy.deepcopy(clip.model), weights, path="weights.pt", model_name="a model")


def test_a_diverged_model_is_not_written(tmp_path, clip):
    diverged = copy.deepcopy(clip)
    diverged.model.visual.proj.data.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="is not written"):
        save_clip(diverged, tmp_path / "clip")
    assert not (tmp_path / "clip").exists()


def test_what_half_precision_can_not_hold_is_not_written(tmp_path, clip):
    large = copy.deepcopy(clip)
    large.model.visual.proj.data[0, 0] = 1e5
    save_clip(large, tmp_path / "full")
    with pytest.raises(NotFiniteError, match=r"visual\.proj"):
        save_clip(large, tmp_path / "half", dtype=torch.float16)


def test_a_mean_of_a_diverged_model_is_refused(tmp_path, clip):
    folders = [save_clip(clip, tmp_path / name) for name in ("a", "b")]
    spoil(folders[1], "text_projection", math.nan)
    with pytest.raises(NotFiniteError, match="text_projection"):
        average_clips(folders, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("value", VALUES)
def test_an_upscaler_that_is_no_number_is_neither_read_nor_written(tmp_path, value):
    model = ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16)
    save_liif(model, tmp_path / "liif.safetensors")
    state = load_file(tmp_path / "liif.safetensors")
    name = next(iter(state))
    model.state_dict()[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=rf"other\.safetensors is not written: 1 of .*\({name}\)"):
        save_liif(model, tmp_path / "other.safetensors")
    from safetensors import safe_open

    with safe_open(tmp_path / "liif.safetensors", framework="pt") as file:
        metadata = file.metadata()
    state[name].view(-1)[0] = value
    save_file(state, tmp_path / "liif.safetensors", metadata=metadata)
    with pytest.raises(CheckpointFormatError, match=rf"liif\.safetensors: 1 of .*\({name}\)"):
        load_liif(tmp_path / "liif.safetensors")
