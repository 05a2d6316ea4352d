"""Controllers: identity at the beginning, orders, gate, prototypes, and their files."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from clipsr_training.clip import ClipCheckpoint, load_clip, save_clip
from clipsr_training.clip._errors import ClipCheckpointError, NotFiniteError, WeightsFormatError, WeightsMismatchError
from clipsr_training.controller import ControlledClip, Controller, encode, load_controller, save_controller
from clipsr_training.controller._blocks import find_blocks, run_tower
from clipsr_training.controller._files import ControllerMismatchError
from clipsr_training.controller._prototypes import embed_kinds, first_prototypes, nearest_pair, require_told_apart
from clipsr_training.degradation import KINDS
from tests.training.tiny_clips import N_BLOCKS, TOWERS, scatter, tiny_clip


def controller_of(checkpoint: ClipCheckpoint, kinds=("noisy", "hazy", "clean"), order="same", seed=1) -> Controller:
    """A controller whose weights, connections and prototypes are random."""
    torch.manual_seed(seed)
    controller = Controller(checkpoint.model.visual, checkpoint.image_size_px, kinds, order=order)
    scatter(controller)
    return controller.eval()


def pixels_for(checkpoint: ClipCheckpoint, n: int = 3) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(n, 3, checkpoint.image_size_px, checkpoint.image_size_px)


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_an_untrained_controller_changes_no_bit(name):
    checkpoint = tiny_clip(name)
    tower, pixels = checkpoint.model.visual, pixels_for(checkpoint)
    controller = Controller(tower, checkpoint.image_size_px, KINDS)
    assert len(controller.connections) == len(find_blocks(tower)) == N_BLOCKS[name]
    for mode in (True, False):  # in training, too: only the copy's own statistics move
        encoding = encode(tower, controller.train(mode), pixels, is_gated=False)
        assert torch.equal(encoding.content, checkpoint.encode_image(pixels))
    assert torch.equal(
        encode(tower, Controller(tower, checkpoint.image_size_px, ()).eval(), pixels).degradation,
        checkpoint.encode_image(pixels),
    )


@pytest.mark.parametrize("name", TOWERS)
def test_every_weight_of_a_controller_has_a_gradient_and_none_of_the_tower(name):
    checkpoint = tiny_clip(name)
    tower = checkpoint.model.visual.requires_grad_(False)
    controller = controller_of(checkpoint)
    encoding = encode(tower, controller.train(), pixels_for(checkpoint), is_gated=False)
    torch.manual_seed(3)
    own = (encoding.content * torch.randn_like(encoding.content)).sum() + encoding.cosines[:, 0].sum()
    (own + controller.logit_scale * encoding.cosines.sum()).backward()
    assert [n for n, p in controller.named_parameters() if p.grad is None] == []
    assert all(p.grad is None for p in tower.parameters())
    assert all(float(p.grad.abs().max()) > 0 for n, p in controller.named_parameters() if n.startswith("connections"))


@torch.no_grad()
@pytest.mark.parametrize("order", ["same", "reversed"])
def test_signals_are_added_in_their_order(order):
    """Against the blocks called one by one."""
    checkpoint = tiny_clip("vit")
    tower, pixels = checkpoint.model.visual, pixels_for(checkpoint)
    controller = controller_of(checkpoint, order=order)
    x, signals = controller.tower._embeds(pixels), []
    for block, connection in zip(controller.tower.transformer.resblocks, controller.connections, strict=True):
        x = block(x)
        signals.append(connection(x))
    y = tower._embeds(pixels)
    for i, block in enumerate(tower.transformer.resblocks):
        y = block(y) + signals[i if order == "same" else len(signals) - 1 - i]
    expected = tower._pool(y)[0] @ tower.proj
    found = encode(tower, controller, pixels, is_gated=False)
    assert torch.allclose(found.content, expected, atol=1e-5)
    assert torch.allclose(found.degradation, controller.tower(pixels), atol=1e-5)
    assert not torch.allclose(found.content, tower(pixels), atol=1e-2)


def test_blocks_of_different_shapes_have_one_order_only():
    with pytest.raises(ValueError, match="differ in shape"):
        controller_of(tiny_clip("resnet"), order="reversed")


def test_towers_without_known_blocks_are_refused():
    with pytest.raises(ValueError, match="a Linear has no blocks"):
        find_blocks(nn.Linear(1, 1))


def test_a_failing_tower_keeps_no_hooks():
    checkpoint = tiny_clip("vit")
    tower = checkpoint.model.visual

    def fail(index, output):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run_tower(tower, pixels_for(checkpoint), fail)
    assert all(not block._forward_hooks for block in find_blocks(tower))


@pytest.mark.parametrize("name", ["vit", "resnet", "efficientnet"])
@torch.no_grad()
def test_pictures_that_are_called_clean_get_the_plain_embedding_bit_for_bit(name):
    checkpoint = tiny_clip(name)
    tower, pixels = checkpoint.model.visual, pixels_for(checkpoint)
    controller = controller_of(checkpoint)
    free = encode(tower, controller, pixels, is_gated=False)
    # The first picture is the clean one, the others are noise and haze.
    unit = functional.normalize(free.degradation, dim=-1)
    controller.prototypes.copy_(torch.stack([unit[1], unit[2], unit[0]]))
    gated, plain = encode(tower, controller, pixels), checkpoint.encode_image(pixels)
    assert gated.cosines.argmax(dim=1).tolist() == [2, 0, 1]
    assert torch.equal(gated.content[0], plain[0])
    assert torch.equal(gated.content[1:], free.content[1:])
    assert not torch.equal(free.content[0], plain[0])
    # A signal beyond all numbers must not pass the closed gate either.
    controller.connections[0].bias.fill_(torch.inf)
    assert torch.equal(encode(tower, controller, pixels).content[0], plain[0])


def test_patches_are_never_dropped():
    checkpoint = tiny_clip("vit")
    checkpoint.model.visual.patch_dropout = type(checkpoint.model.visual)(  # an OpenCLIP tower that drops half of them
        16, 8, 32, 1, 2, 4.0, patch_dropout=0.5
    ).patch_dropout
    controller = controller_of(checkpoint).train()
    assert controller.training
    assert encode(checkpoint.model.eval().visual, controller, pixels_for(checkpoint)).content.isfinite().all()


def test_prototypes_begin_with_texts_where_these_are_apart():
    checkpoint = tiny_clip()
    texts = embed_kinds(checkpoint, KINDS)
    assert nearest_pair(texts)[0] < 0.95
    assert torch.equal(first_prototypes(checkpoint, KINDS), texts)
    require_told_apart(texts, KINDS)
    with torch.no_grad():
        checkpoint.model.token_embedding.weight.zero_()
    drawn = first_prototypes(checkpoint, KINDS)
    assert nearest_pair(drawn)[0] < 0.95
    assert torch.allclose(drawn.norm(dim=1), torch.ones(len(KINDS)))
    with pytest.raises(ValueError, match=r"texts '[a-z-]+' and '[a-z-]+' have a cosine of"):
        require_told_apart(embed_kinds(checkpoint, KINDS), KINDS)


@pytest.fixture
def saved(tmp_path):
    """A model's folder and a controller's."""
    checkpoint = tiny_clip("vit")
    save_clip(checkpoint, tmp_path / "model")
    checkpoint = load_clip(tmp_path / "model")
    controlled = ControlledClip(clip=checkpoint, controller=controller_of(checkpoint, order="reversed"))
    return controlled, tmp_path / "model", save_controller(controlled, tmp_path / "controller", training={"seed": 1})


@torch.no_grad()
def test_a_controller_is_read_as_it_was_written(saved):
    controlled, model, folder = saved
    again = load_controller(folder, load_clip(model))
    pixels = pixels_for(controlled.clip)
    for one, two in zip(controlled.encode(pixels), again.encode(pixels), strict=True):
        assert torch.equal(one, two)
    assert again.controller.kinds == controlled.controller.kinds
    assert again.controller.order == "reversed"
    assert not again.controller.training
    assert json.loads((folder / "controller.json").read_text())["training"] == {"seed": 1}
    assert {path.name for path in folder.iterdir()} == {"controller.json", "controller.safetensors"}


def test_a_controller_of_another_tower_is_refused(saved, tmp_path):
    _, _, folder = saved
    save_clip(tiny_clip("vit", seed=9), tmp_path / "other")
    with pytest.raises(
        ControllerMismatchError, match=r"controls another image tower than open_clip_model\.safetensors"
    ):
        load_controller(folder, load_clip(tmp_path / "other"))


def rewrite(folder, change) -> None:
    """Change weights, and describe them as if nothing had happened."""
    state = load_file(folder / "controller.safetensors")
    change(state)
    save_file(state, folder / "controller.safetensors")
    description = json.loads((folder / "controller.json").read_text())
    description["weights_sha256"] = hashlib.sha256((folder / "controller.safetensors").read_bytes()).hexdigest()
    (folder / "controller.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda s: s.pop("connections.1.bias"), WeightsMismatchError, r"1 missing \(connections.1.bias\)"),
        (lambda s: s.update(more=torch.zeros(1)), WeightsMismatchError, r"1 unexpected \(more\)"),
        (lambda s: s.update(prototypes=torch.zeros(2, 16)), WeightsMismatchError, "1 of another shape"),
        (lambda s: s["prototypes"].fill_(torch.nan), NotFiniteError, "prototypes"),
    ],
)
def test_other_weights_are_refused_by_name(change, error, sentence, saved):
    _, model, folder = saved
    rewrite(folder, change)
    with pytest.raises(error, match=sentence):
        load_controller(folder, load_clip(model))


def test_damaged_folders_are_one_sentence(saved, tmp_path):
    controlled, model, folder = saved
    checkpoint = load_clip(model)
    with pytest.raises(FileNotFoundError, match=r"controller.json is missing"):
        load_controller(tmp_path / "nowhere", checkpoint)
    description = json.loads((folder / "controller.json").read_text())
    for content, sentence in (
        ("{", "is damaged"),
        ("[]", "schema version 1"),
        (json.dumps({**description, "schema_version": 2}), "schema version 1"),
        (json.dumps({**description, "control_order": "odd"}), "lacks one of kinds, control_order"),
        (json.dumps({**description, "kinds": [1]}), "lacks one of kinds"),
        (json.dumps({**description, "weights_sha256": "0" * 64}), "describes other weights"),
    ):
        (folder / "controller.json").write_text(content)
        with pytest.raises(WeightsFormatError, match=sentence):
            load_controller(folder, checkpoint)
    controlled.controller.prototypes.data[0, 0] = torch.inf
    with pytest.raises(ClipCheckpointError, match="is not written: 1 of"):
        save_controller(controlled, tmp_path / "diverged")
    assert not (tmp_path / "diverged").exists()


def test_weights_that_overflow_half_precision_are_not_written(saved, tmp_path):
    controlled, _, _ = saved
    controlled.controller.prototypes.data[0, 0] = 1e6
    save_controller(controlled, tmp_path / "single")
    with pytest.raises(NotFiniteError):
        save_controller(controlled, tmp_path / "half", dtype=torch.float16)
