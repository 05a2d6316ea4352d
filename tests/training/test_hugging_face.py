"""CLIP and SigLIP folders of `transformers` give what `transformers` itself computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from clipsr_training.clip import load_clip, save_clip
from clipsr_training.clip._errors import UnknownModelError, WeightsMismatchError
from tests.export.families import write_tokenizer

SAME = 1e-5  # two orders of summation in fp32 over towers of two layers
TEXT = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {
    **TEXT,
    "hidden_size": 48,
    "num_attention_heads": 3,
    "intermediate_size": 131,
    "image_size": 32,
    "patch_size": 8,
}
CLIP_TEXT = {**TEXT, "vocab_size": 49408, "max_position_embeddings": 16}
# Ends that older and newer files name, and a small vocabulary with an end token in the middle of it.
CLIPS = {
    "quick_gelu": {},
    "gelu": {"hidden_act": "gelu"},
    "old-end": {"eos_token_id": 2},
    "eps": {"layer_norm_eps": 1e-3},
}


def scramble(model: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value of its own: what is initialized with 0 or 1 would hide a wrong name."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model.eval()


def clip(folder: Path, **changes) -> torch.nn.Module:
    shared = {"hidden_act": "quick_gelu", **{k: v for k, v in changes.items() if k != "eos_token_id"}}
    text = {**CLIP_TEXT, **shared, "eos_token_id": changes.get("eos_token_id", 49407)}
    config = transformers.CLIPConfig(text_config=text, vision_config={**VISION, **shared}, projection_dim=24)
    model = scramble(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    return model


def siglip(folder: Path, **changes) -> torch.nn.Module:
    text = {**TEXT, "vocab_size": 256, "max_position_embeddings": 16, "projection_size": 48, "bos_token_id": 1}
    config = transformers.SiglipConfig(
        text_config={**text, "eos_token_id": 1, **changes}, vision_config={**VISION, **changes}
    )
    model = scramble(transformers.SiglipModel(config))
    model.save_pretrained(folder)
    write_tokenizer(folder, "tiny-siglip")
    return model


def features(model: torch.nn.Module, kind: str, value: torch.Tensor) -> torch.Tensor:
    result = model.get_image_features(value) if kind == "image" else model.get_text_features(value)
    return result if isinstance(result, torch.Tensor) else result.pooler_output


@torch.inference_mode()
def differences(folder: Path, model: torch.nn.Module, tokens: torch.Tensor) -> list[float]:
    checkpoint = load_clip(folder)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pairs = [
        (checkpoint.encode_image(pixels), features(model, "image", pixels)),
        (checkpoint.encode_text(tokens), features(model, "text", tokens)),
    ]
    assert all(ours.shape == theirs.shape for ours, theirs in pairs)
    return [float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs]


def prompts(folder: Path) -> torch.Tensor:
    return load_clip(folder).tokenizer(["a photo of a cat", "a dog", "x " * 40])


@pytest.mark.parametrize("changes", CLIPS.values(), ids=CLIPS)
def test_clip_computes_what_transformers_does(tmp_path, changes):
    model = clip(tmp_path, **changes)
    assert max(differences(tmp_path, model, prompts(tmp_path))) <= SAME
    checkpoint = load_clip(tmp_path)
    assert checkpoint.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert (checkpoint.image_size_px, checkpoint.embed_dim, checkpoint.context_length) == (32, 24, 16)


@pytest.mark.parametrize("activation", ["gelu_pytorch_tanh", "gelu"])
def test_siglip_computes_what_transformers_does(tmp_path, activation):
    model = siglip(tmp_path, hidden_act=activation)
    assert max(differences(tmp_path, model, prompts(tmp_path))) <= SAME
    checkpoint = load_clip(tmp_path)
    assert checkpoint.logit_bias == pytest.approx(float(model.logit_bias.detach()))
    assert checkpoint.mean == (0.5, 0.5, 0.5)
    assert checkpoint.resize_mode == "squash"


@pytest.mark.parametrize("make", [clip, siglip])
def test_it_is_saved_in_open_clip_s_layout_and_reads_back(tmp_path, make):
    model = make(tmp_path / "theirs")
    tokens = prompts(tmp_path / "theirs")
    folder = save_clip(load_clip(tmp_path / "theirs"), tmp_path / "ours")
    assert max(differences(folder, model, tokens)) <= SAME
    assert prompts(folder).equal(tokens)


@pytest.mark.parametrize(("form", "options"), [("sharded", {"max_shard_size": "20KB"})])
def test_weights_in_several_files(tmp_path, form, options):
    model = clip(tmp_path / "one")
    model.save_pretrained(tmp_path / form, **options)
    assert (tmp_path / form / "model.safetensors.index.json").is_file()
    assert max(differences(tmp_path / form, model, prompts(tmp_path / form))) <= SAME


def test_images_are_prepared_as_the_folder_says(tmp_path):
    clip(tmp_path)
    assert load_clip(tmp_path).resize_mode == "shortest"
    own = {
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 2,
        "size": {"height": 32, "width": 32},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(own))
    checkpoint = load_clip(tmp_path)
    assert (checkpoint.mean, checkpoint.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (checkpoint.interpolation, checkpoint.resize_mode) == ("bilinear", "squash")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "clipseg"}, "is a 'clipseg' of transformers; known are clip, siglip"),
        ({"vision_config": {**VISION, "hidden_act": "relu"}}, "has activations"),
    ],
)
def test_what_open_clip_can_not_express_is_refused(tmp_path, changes, message):
    clip(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(UnknownModelError, match=message):
        load_clip(tmp_path)


def test_missing_and_unknown_tensors_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    clip(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["text_model.adapter.weight"] = state.pop("vision_model.embeddings.class_embedding")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsMismatchError,
        match=r"1 missing \(visual\.class_embedding\); 1 unexpected \(text_model\.adapter\.weight\)",
    ):
        load_clip(tmp_path)
