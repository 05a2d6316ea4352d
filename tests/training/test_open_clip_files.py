"""Models that OpenCLIP knows by name, from weight files in every format, and what is said where they don't fit."""

from __future__ import annotations

import argparse
import importlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clipsr_training.clip import load_clip, load_open_clip, save_clip
from clipsr_training.clip._errors import (
    ClipCheckpointError,
    HubError,
    PreprocessError,
    UnknownModelError,
    WeightsFormatError,
    WeightsMismatchError,
    WeightsNotFoundError,
)
from clipsr_training.clip._open_clip import build_model, model_config
from clipsr_training.clip._published import published_config, split_config

# After clipsr_training, which lets torchvision, and with it open_clip, import beside a CPU-only torch.
open_clip = importlib.import_module("open_clip")

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}
MODELS = {
    "tiny-vit": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-resnet": {"embed_dim": 48, "vision_cfg": RESNET, "text_cfg": TEXT},
    "tiny-custom-text": {"embed_dim": 48, "custom_text": True, "vision_cfg": VIT, "text_cfg": TEXT},
}


@pytest.fixture(scope="module", autouse=True)
def _known_models(tmp_path_factory):
    """Make OpenCLIP know the small models."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def trained(name: str, **changes) -> nn.Module:
    """A model with weights of its own, and a scale that no default has."""
    torch.manual_seed(7)
    model = build_model({**model_config(name)[1], **changes}).eval()
    model.logit_scale.data.fill_(math.log(42))
    return model


class _OpenAIArchive(nn.Module):
    """A model as OpenAI publishes it: fp16 weights and three numbers in one TorchScript archive."""

    def __init__(self, model: nn.Module, image_size_px: int) -> None:
        super().__init__()
        open_clip.convert_weights_to_lp(model, torch.float16)
        for name, child in model.named_children():
            self.add_module(name, _Weights(child.state_dict()))
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, number in (("input_resolution", image_size_px), ("context_length", 16), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(number))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class _Weights(nn.Module):
    """A tree of tensors under their names."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        children: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in state.items():
            head, _, tail = name.partition(".")
            if tail:
                children.setdefault(head, {})[tail] = tensor
            else:
                self.register_buffer(head, tensor)
        for head, rest in children.items():
            self.add_module(head, _Weights(rest))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


KINDS = ["state", "state_dict", "module", "compiled", "safetensors", "model", "model_state_dict", "lightning"]
KINDS += ["compiled-ddp", "averaged", "options"]


def write(path: Path, kind: str, model: nn.Module) -> Path:
    state = model.state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    elif kind == "openai":
        size = model.visual.image_size
        archive = _OpenAIArchive(model, size[0] if isinstance(size, tuple) else size)
        torch.jit.save(torch.jit.script(archive), path)
    else:
        content = {
            "state": state,
            "state_dict": {"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"state": {}}},
            "module": {"epoch": 3, "state_dict": wrapped},
            "compiled": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
            "model": {"model": state, "epoch": 3},
            "model_state_dict": {"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "loss": 0.5},
            "lightning": {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}, "epoch": 3},
            "compiled-ddp": {"state_dict": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
            "averaged": {"n_averaged": torch.tensor(5), **wrapped},
            "options": {"state_dict": state, "args": argparse.Namespace(lr=0.1, output=Path("runs"))},
            "bf16": {name: tensor.bfloat16() for name, tensor in state.items()},
        }[kind]
        torch.save(content, path)
    return path


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_weights_that_were_written(tmp_path, name, kind):
    model = trained(name)
    checkpoint = load_open_clip(name, str(write(tmp_path / "weights.pt", kind, model)))
    assert checkpoint.logit_scale == pytest.approx(42)
    own = checkpoint.model.state_dict()
    assert all(torch.equal(tensor, own[key]) for key, tensor in model.state_dict().items())
    assert not checkpoint.model.training
    assert not checkpoint.is_random


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-resnet"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript, in which OpenAI's files are written
def test_an_openai_archive_is_read_with_its_activation(tmp_path, name):
    lines: list[str] = []
    expected = trained(name, quick_gelu=True)
    side = model_config(name)[1]["vision_cfg"]["image_size"]
    pixels, tokens = torch.randn(2, 3, side, side), torch.randint(1, 99, (2, 16))
    path = write(tmp_path / "openai.pt", "openai", trained(name, quick_gelu=True))
    checkpoint = load_open_clip(name, str(path), report=lines.append)
    assert checkpoint.config["model_cfg"]["quick_gelu"] is True
    assert any("QuickGELU" in line for line in lines)
    assert checkpoint.config["preprocess_cfg"]["mean"] == open_clip.OPENAI_DATASET_MEAN
    with torch.inference_mode():
        for ours, theirs in (
            (checkpoint.encode_image(pixels), expected.encode_image(pixels)),
            (checkpoint.encode_text(tokens), expected.encode_text(tokens)),
        ):
            # The file holds fp16.
            assert torch.cosine_similarity(ours, theirs).min() > 0.999


def test_half_precision_weights_are_computed_with_in_fp32(tmp_path):
    checkpoint = load_open_clip("tiny-vit", str(write(tmp_path / "weights.pt", "bf16", trained("tiny-vit"))))
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.float32}


def test_old_names_fit_a_model_with_a_text_tower_of_its_own(tmp_path):
    path = write(tmp_path / "weights.pt", "state", trained("tiny-vit"))
    checkpoint = load_open_clip("tiny-custom-text", str(path))
    assert checkpoint.logit_scale == pytest.approx(42)


@pytest.mark.parametrize(
    ("name", "changes", "size_px"),
    [
        ("tiny-vit", {"vision_cfg": {**VIT, "image_size": 48}}, 48),
        ("tiny-resnet", {"vision_cfg": {**RESNET, "image_size": 96}}, 96),
    ],
)
def test_the_image_side_is_that_of_the_weights(tmp_path, name, changes, size_px):
    lines: list[str] = []
    path = write(tmp_path / "weights.pt", "state", trained(name, **changes))
    checkpoint = load_open_clip(name, str(path), report=lines.append)
    assert checkpoint.image_size_px == checkpoint.config["preprocess_cfg"]["size"] == size_px
    assert any(f"image side {size_px} px" in line for line in lines)
    with torch.inference_mode():
        assert checkpoint.encode_image(torch.zeros(1, 3, size_px, size_px)).shape == (1, 48)


def test_the_context_length_is_that_of_the_weights(tmp_path):
    path = write(tmp_path / "weights.pt", "state", trained("tiny-vit", text_cfg={**TEXT, "context_length": 24}))
    checkpoint = load_open_clip("tiny-vit", str(path))
    assert checkpoint.context_length == 24


def test_a_logit_bias_means_sigmoid_and_none_means_softmax(tmp_path):
    biased = trained("tiny-vit", init_logit_bias=-10.0)
    assert load_open_clip("tiny-vit", str(write(tmp_path / "a.pt", "state", biased))).logit_bias == -10
    assert load_open_clip("tiny-vit", str(write(tmp_path / "b.pt", "state", trained("tiny-vit")))).logit_bias is None


def test_random_weights_are_the_same_every_time_and_say_so():
    first, second = (load_open_clip("tiny-vit", "random") for _ in range(2))
    assert first.is_random
    assert torch.equal(first.model.visual.proj, second.model.visual.proj)


def test_a_folder_written_from_a_named_model_reads_back(tmp_path):
    path = write(tmp_path / "weights.pt", "state", trained("tiny-vit", init_logit_bias=-3.0))
    checkpoint = load_open_clip("tiny-vit", str(path))
    again = load_clip(save_clip(checkpoint, tmp_path / "folder"))
    assert (again.logit_scale, again.logit_bias) == (pytest.approx(42), -3)
    assert again.config["preprocess_cfg"]["resize_mode"] == "shortest"
    assert torch.equal(again.model.visual.proj, checkpoint.model.visual.proj)


def test_images_are_prepared_as_published():
    def published(name: str, tag: str | None = None) -> dict:
        return split_config(published_config(name, tag, model_config(name)[1], is_openai=False, is_random=False))[0]

    siglip = published("ViT-B-16-SigLIP")
    assert (siglip["mean"], siglip["std"], siglip["resize_mode"]) == ((0.5,) * 3, (0.5,) * 3, "squash")
    mobile = published("MobileCLIP-S1")
    assert (mobile["mean"], mobile["std"], mobile["interpolation"]) == ((0.0,) * 3, (1.0,) * 3, "bilinear")
    assert published("RN50")["mean"] == open_clip.OPENAI_DATASET_MEAN
    with pytest.raises(PreprocessError, match=r"ViT-L-14 take images prepared in different ways.*laion2b_s32b_b82k"):
        published("ViT-L-14")
    assert published("ViT-L-14", "laion2b_s32b_b82k")["mean"] == (0.5, 0.5, 0.5)
    with pytest.raises(PreprocessError, match="no published weights 'webli'"):
        published("ViT-L-14", "webli")
    # What only OpenCLIP's training defaults describe.
    assert published("tiny-vit")["resize_mode"] == "shortest"


@pytest.mark.parametrize("name", sorted({name for name, _ in open_clip.list_pretrained()}))
def test_random_weights_need_no_choice_of_preparation(name):
    published = published_config(name, None, model_config(name)[1], is_openai=False, is_random=True)
    assert split_config(published)[0]["std"]


@pytest.mark.parametrize(("name", "tag"), open_clip.list_pretrained())
def test_everything_that_published_weights_say_goes_into_the_model(name, tag):
    """Of 28 pairs of OpenCLIP's list the activation is another than the named model's."""
    said = open_clip.get_pretrained_cfg(name, tag)
    named_cfg = model_config(name)[1]
    preprocess_cfg, of_model = split_config(published_config(name, tag, named_cfg, is_openai=False, is_random=False))
    fields = {key: value for key, value in said.items() if key not in ("url", "hf_hub")}
    assert {key: value for key, value in {**preprocess_cfg, **of_model}.items() if key in fields} == fields
    assert of_model.keys() <= {"quick_gelu"}, "what else is said must be an argument of the model"
    built = {**named_cfg, **of_model}.get("quick_gelu", False)
    assert built == said.get("quick_gelu", named_cfg.get("quick_gelu", False))


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Publishes weights of tiny-vit under two tags, of which one wants QuickGELU."""
    path = write(tmp_path / "published.pt", "safetensors", trained("tiny-vit"))
    about = {"hf_hub": "nobody/has-this/", "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bicubic"}
    tags = {"quick": {**about, "quick_gelu": True}, "plain": {**about}}
    monkeypatch.setitem(importlib.import_module("open_clip.pretrained")._PRETRAINED, "tiny-vit", tags)
    monkeypatch.setattr("clipsr_training.clip._open_clip.download_pretrained", lambda _: str(path))
    return path


@pytest.mark.parametrize(("tag", "is_quick"), [("quick", True), ("plain", False)])
def test_a_tag_is_built_with_its_activation(published, tag, is_quick):
    checkpoint = load_open_clip("tiny-vit", tag)
    activation = checkpoint.model.visual.transformer.resblocks[0].mlp.gelu
    assert isinstance(activation, importlib.import_module("open_clip.transformer").QuickGELU) == is_quick
    assert bool(checkpoint.config["model_cfg"].get("quick_gelu")) == is_quick
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = trained("tiny-vit", quick_gelu=is_quick).encode_image(pixels)
        assert torch.equal(checkpoint.encode_image(pixels), expected)


def test_a_file_whose_activation_is_not_known_asks_for_the_tag(published):
    with pytest.raises(
        PreprocessError, match=r"differ in quick_gelu \(quick_gelu True: quick; quick_gelu False: plain\)"
    ):
        load_open_clip("tiny-vit", str(published))
    checkpoint = load_open_clip("tiny-vit", str(published), preprocess="quick")
    assert checkpoint.config["model_cfg"]["quick_gelu"] is True
    assert load_open_clip("tiny-vit", "random").config["model_cfg"].get("quick_gelu") is None


@pytest.mark.parametrize(
    ("name", "near"), [("ViT-B/33", "ViT-B-32"), ("rn50X4", "RN50x4"), ("ViT-B-16-SigLip3", "ViT-B-16-SigLIP2")]
)
def test_an_unknown_name_gets_a_suggestion(name, near):
    with pytest.raises(UnknownModelError, match="did you mean") as caught:
        load_open_clip(name, "random")
    assert near in caught.value.suggestions


@pytest.mark.parametrize("written", ["ViT-L/14@336px", "ViT-L-14@336", "ViT-L-14-336"])
def test_names_as_openai_writes_them(written):
    assert model_config(written)[0] == "ViT-L-14-336"


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    path = write(tmp_path / "weights.pt", "state", trained("tiny-resnet"))
    with pytest.raises(
        WeightsMismatchError, match=r"does not fit tiny-vit: \d+ missing \(visual\..*unexpected"
    ) as caught:
        load_open_clip("tiny-vit", str(path))
    assert "\n" not in str(caught.value)
    wide = write(tmp_path / "wide.pt", "state", trained("tiny-vit", embed_dim=64))
    with pytest.raises(
        WeightsMismatchError, match=r"of another shape \(text_projection: \[32, 64\] in the file, \[32, 48\]"
    ):
        load_open_clip("tiny-vit", str(wide))


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04"])
def test_a_file_that_holds_no_weights(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsFormatError, match=r"weights\.pt can't be read as weights"):
        load_open_clip("tiny-vit", str(path))
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(WeightsFormatError, match=r"weights\.safetensors can't be read as weights"):
        load_open_clip("tiny-vit", str(tmp_path / "weights.safetensors"))


def test_a_pickle_of_code_is_not_executed(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "model.pt")
    with pytest.raises(WeightsFormatError, match=r"it holds code \(torch\.nn\.modules\.linear\.Linear\)") as caught:
        load_open_clip("tiny-vit", str(tmp_path / "model.pt"))
    assert "weights_only" not in str(caught.value), "torch's advice is to run it"
    (tmp_path / "page.pt").write_text("<html>404</html>")
    with pytest.raises(
        WeightsFormatError, match=r"can't be read as weights: it is no PyTorch checkpoint, or is damaged$"
    ):
        load_open_clip("tiny-vit", str(tmp_path / "page.pt"))
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(WeightsFormatError, match="holds no weights"):
        load_open_clip("tiny-vit", str(tmp_path / "empty.pt"))


def test_neither_a_file_nor_a_tag():
    with pytest.raises(WeightsNotFoundError, match=r"no such file: lost\.pt; .*its tags are openai, yfcc15m, cc12m"):
        load_open_clip("RN50", "lost.pt")
    with pytest.raises(WeightsNotFoundError, match="none are published"):
        load_open_clip("tiny-vit", "lost.pt")


def test_a_tag_without_a_hub_names_what_to_fetch(monkeypatch):
    def fail(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("open_clip.pretrained.hf_hub_download", fail)
    with pytest.raises(HubError, match=r"no route to host.*fetch timm/resnet50_clip\.openai/ elsewhere"):
        load_open_clip("RN50", "openai")
    assert issubclass(HubError, ClipCheckpointError)
