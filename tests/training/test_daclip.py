"""DA-CLIP's files: the outputs of the original code, every form in which they come, and what is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from clipsr_training.clip._checkpoint import build_clip
from clipsr_training.clip._errors import NotFiniteError, WeightsFormatError, WeightsMismatchError
from clipsr_training.controller import DACLIP_KINDS, ControlledClip, Controller, encode, load_daclip
from clipsr_training.controller._blocks import run_tower
from tests.tolerances import RAW
from tests.training.tiny_clips import TEXT, TOWERS, scatter, tiny_clip

MODEL_CFG = {"embed_dim": 16, "vision_cfg": TOWERS["vit"], "text_cfg": TEXT}
# DA-CLIP's own names, as its repository's classes give them.
OFFICIAL_BLOCKS, OFFICIAL_ZEROS = (
    "visual_control.transformer.transformer.resblocks.",
    "visual_control.transformer.zero_modules.",
)


@pytest.fixture(params=["daclip.pt", "daclip_bare.pt"])
def golden(request, golden_dir) -> tuple[ControlledClip, dict[str, torch.Tensor]]:
    """The original's weights in ours, and what the original says."""
    folder = golden_dir / "daclip"
    if not folder.is_dir():
        pytest.skip("the golden folder has no daclip/")
    config = json.loads((folder / "manifest.json").read_text())["daclip"]["model_config"]
    arrays = {name: torch.from_numpy(value) for name, value in np.load(folder / "daclip.npz").items()}
    return load_daclip(folder / request.param, model_cfg=config, kinds=()), arrays


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() < RAW)


@torch.no_grad()
def test_embeddings_are_those_of_the_original(golden):
    ours, arrays = golden
    encoding = ours.encode(arrays["pixels"])
    assert close(encoding.content, arrays["content_raw"])
    assert close(encoding.degradation, arrays["degradation_raw"])
    assert close(ours.clip.encode_image(arrays["pixels"]), arrays["plain_raw"])
    captions, words = arrays["tokens"].long().chunk(2, dim=1)
    assert close(ours.clip.encode_text(captions), arrays["caption_raw"])
    assert close(ours.clip.encode_text(words), arrays["degradation_text_raw"])
    assert float(ours.controller.logit_scale.exp()) == pytest.approx(float(arrays["logit_scale"]), abs=1e-5)
    assert ours.clip.logit_scale == pytest.approx(np.exp(4.105), rel=1e-3)  # the model's own is another
    # The order matters: the other one is far off.
    ours.controller.order = "same"
    other = ours.encode(arrays["pixels"]).content
    assert close(other, arrays["content_raw_not_reversed"])
    assert (other - arrays["content_raw"]).abs().max() > 0.1


@torch.no_grad()
def test_blocks_are_those_of_the_original(golden):
    ours, arrays = golden
    pixels, controller = arrays["pixels"][:1], ours.controller
    blocks: list[torch.Tensor] = []
    run_tower(controller.tower, pixels, lambda _, output: blocks.append(output[0]))
    assert close(torch.stack(blocks), arrays["hidden_control_block"])
    signals = controller(pixels).controls
    assert close(torch.cat(signals[::-1]), arrays["hidden_control_zero"])
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []

    def add(index: int, output: torch.Tensor) -> torch.Tensor:
        before.append(output[0])
        after.append((output + signals[index])[0])
        return output + signals[index]

    run_tower(ours.clip.model.visual, pixels, add)
    assert close(torch.stack(before), arrays["hidden_main_before"])
    assert close(torch.stack(after), arrays["hidden_main_after"])
    assert arrays["hidden_control_zero"].abs().max() > 0.1


def official_state(seed: int = 0) -> tuple[dict[str, torch.Tensor], ControlledClip]:
    """A tiny model in DA-CLIP's names, and in ours."""
    clip = tiny_clip("vit", seed)
    torch.manual_seed(seed + 1)
    controller = Controller(clip.model.visual, 16, (), order="reversed")
    scatter(controller)
    state = {f"clip.{name}": value for name, value in clip.model.state_dict().items()}
    state |= {f"visual.{name}": value for name, value in clip.model.visual.state_dict().items()}
    for name, value in controller.tower.state_dict().items():
        inner = name.removeprefix("transformer.resblocks.")
        state[f"visual_control.{name}" if inner == name else OFFICIAL_BLOCKS + inner] = value
    state |= {OFFICIAL_ZEROS + name: value for name, value in controller.connections.state_dict().items()}
    state["logit_scale"] = torch.tensor(1.5)
    return state, ControlledClip(clip=clip, controller=controller.eval())


@torch.no_grad()
def test_every_form_of_a_file_is_read(tmp_path):
    state, expected = official_state()
    pixels = torch.randn(2, 3, 16, 16)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    trained = {"epoch": 3, "name": "daclip", "optimizer": optimizer.state_dict()}
    forms = {
        "bare.pt": state,
        "trained.pt": {**trained, "state_dict": state},
        "scaled.pt": {**trained, "state_dict": state, "scaler": {"scale": 65536.0}},
        "parallel.pt": {**trained, "state_dict": {f"module.{name}": value for name, value in state.items()}},
        "bare-parallel.pt": {f"module.{name}": value for name, value in state.items()},
        "vector.pt": {**state, "logit_scale": state["logit_scale"].reshape(1)},
    }
    for name, content in forms.items():
        torch.save(content, tmp_path / name)
        ours = load_daclip(tmp_path / name, model_cfg=MODEL_CFG)
        found, wanted = ours.encode(pixels), encode(expected.clip.model.visual, expected.controller, pixels)
        assert torch.equal(found.content, wanted.content), name
        assert torch.equal(found.degradation, wanted.degradation), name
        assert float(ours.controller.logit_scale) == 1.5
        assert ours.controller.kinds == DACLIP_KINDS
        assert ours.controller.clean is None
        assert ours.clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
        assert ours.clip.image_size_px == 16
    # The kinds are judged by their words.
    texts = ours.clip.encode_text(ours.clip.tokenizer(["hazy"]))
    assert torch.allclose(ours.controller.cosines(texts)[0, 1], torch.tensor(1.0), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda s: s.pop("clip.visual.proj"), WeightsMismatchError, r"1 missing \(clip.visual.proj\)"),
        (lambda s: s.pop("clip.ln_final.weight"), WeightsMismatchError, r"1 missing \(clip.ln_final.weight\)"),
        (lambda s: s.pop("visual.proj"), WeightsMismatchError, r"1 missing \(visual.proj\)"),
        (lambda s: s.pop("logit_scale"), WeightsMismatchError, r"1 missing \(logit_scale\)"),
        (lambda s: s.pop(OFFICIAL_ZEROS + "2.bias"), WeightsMismatchError, r"1 missing \(.*zero_modules.2.bias\)"),
        (lambda s: s.pop(OFFICIAL_BLOCKS + "0.ln_1.bias"), WeightsMismatchError, r"1 missing \(.*blocks.0.ln_1.bias\)"),
        (lambda s: s.update(extra=torch.zeros(2)), WeightsMismatchError, r"1 unexpected \(extra\)"),
        (lambda s: s.update({OFFICIAL_ZEROS + "3.bias": torch.zeros(32)}), WeightsMismatchError, "1 unexpected"),
        (lambda s: s.update({OFFICIAL_ZEROS + "0.bias": torch.zeros(31)}), WeightsMismatchError, "of another shape"),
        (
            lambda s: s.update({"visual.proj": s["visual.proj"] + 1e-6}),
            WeightsFormatError,
            "contradicts itself: visual.proj",
        ),
        (lambda s: s.update(logit_scale=torch.tensor(torch.nan)), NotFiniteError, "logit_scale"),
    ],
)
def test_missing_unknown_and_contradicting_weights_are_refused_by_name(change, error, sentence, tmp_path):
    state, _ = official_state()
    change(state)
    torch.save(state, tmp_path / "daclip.pt")
    with pytest.raises(error, match=sentence):
        load_daclip(tmp_path / "daclip.pt", model_cfg=MODEL_CFG)


def explode() -> None:
    pytest.fail("the pickle was executed")


class Bomb:
    """Pickled, it calls a function when it is read."""

    def __reduce__(self):
        return (explode, ())


def test_files_of_other_kinds_are_one_sentence(tmp_path):
    state, expected = official_state()
    with pytest.raises(FileNotFoundError, match="no DA-CLIP checkpoint at"):
        load_daclip(tmp_path / "nowhere.pt")
    torch.save(expected.clip.model.state_dict(), tmp_path / "clip.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    torch.save({"state_dict": state, "optimizer": Bomb()}, tmp_path / "bomb-inside.pt")
    for name, sentence in (
        ("clip.pt", "is no DA-CLIP checkpoint"),
        ("text.pt", "can't be read as weights"),
        ("bomb.pt", "can't be read as weights"),
        ("bomb-inside.pt", "it holds code"),
    ):
        with pytest.raises(WeightsFormatError, match=sentence):
            load_daclip(tmp_path / name, model_cfg=MODEL_CFG)
    torch.save(state, tmp_path / "tiny.pt")
    with pytest.raises(WeightsFormatError, match=r"none of DA-CLIP's published models \(ViT-B-32, ViT-L-14\)"):
        load_daclip(tmp_path / "tiny.pt")


def test_published_sizes_are_found_by_their_patches(tmp_path):
    """Of a file with the right patches and nothing else, everything else is missed by name."""
    state = {"clip.visual.conv1.weight": torch.zeros(768, 3, 32, 32), "visual_control.proj": torch.zeros(1)}
    torch.save(state, tmp_path / "daclip.pt")
    with pytest.raises(WeightsMismatchError, match=r"does not fit daclip_ViT-B-32: \d+ missing"):
        load_daclip(tmp_path / "daclip.pt")


def test_a_file_may_have_been_trained_on_other_sizes(tmp_path):
    """Image side and context length are those of the weights, as with any CLIP."""
    state, _ = official_state()
    torch.save(state, tmp_path / "daclip.pt")
    named = {
        **MODEL_CFG,
        "vision_cfg": {**TOWERS["vit"], "image_size": 224},
        "text_cfg": {**TEXT, "context_length": 77},
    }
    ours = load_daclip(tmp_path / "daclip.pt", model_cfg=named)
    assert ours.clip.image_size_px == 16
    assert ours.clip.context_length == 16
    assert build_clip(ours.clip.config).model.state_dict().keys() == ours.clip.model.state_dict().keys()
