"""Training of controllers: draws, both recipes, resume, and what it says of bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipsr_training._cli.train import main
from clipsr_training._fit import FitOptions
from clipsr_training.adapt._photos import open_photos
from clipsr_training.clip import load_clip, save_clip
from clipsr_training.clip._preprocess import Fitting, make_preprocess
from clipsr_training.controller import _module, load_controller
from clipsr_training.controller._captions import open_captioned
from clipsr_training.controller._draws import DrawDataset, DrawOptions, collate, draw, draw_kinds, render
from clipsr_training.controller._head import CLEAN_KEPT, HeadFigures, train_head
from clipsr_training.controller._recipe import RECIPES, ControllerRecipe
from clipsr_training.controller._train import make_controller
from clipsr_training.data import SetOptions, read_pairs
from clipsr_training.degradation import KINDS, generator
from clipsr_training.evaluation._backends.pixels import encode as encode_file
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.liif import load_liif
from tests.training.made import write_photos, write_upscaler
from tests.training.tiny_clips import tiny_clip

N_PHOTOS = 14
BATCH = 4


@pytest.fixture
def photos(tmp_path) -> Path:
    """Smooth photos of 90x100 px, in a folder below another."""
    return write_photos(tmp_path / "photos" / "2019", N_PHOTOS, (100, 90)).parent


@pytest.fixture
def model(tmp_path) -> Path:
    """A tiny CLIP model of 16 px, for which pictures below 40 px are rendered by super-resolution."""
    checkpoint = tiny_clip("vit")
    checkpoint.config["clipsr_cfg"] = {"native_min_side_px": 40}
    return save_clip(checkpoint, tmp_path / "model")


@pytest.fixture
def upscaler(tmp_path) -> Path:
    return write_upscaler(tmp_path / "liif.safetensors")


@pytest.fixture
def command(photos, model, upscaler):
    """A run of six steps in three segments."""

    def options(output: Path, *more: str) -> list[str]:
        return [
            *("controller", "--model", str(model), "--upscaler", str(upscaler), "--data", str(photos)),
            *("--anchors", "@cifar10", "--draws", str(6 * BATCH), "--batch-size", str(BATCH)),
            *("--workers", "0", "--output", str(output), *more),
        ]

    return options


@pytest.fixture
def _short_segments(monkeypatch) -> None:
    monkeypatch.setattr(_module, "STEPS_PER_SEGMENT", 2)


def draw_options(seed: int = 0, upscaled_below_px: int = 64, **recipe) -> DrawOptions:
    return DrawOptions(
        recipe=ControllerRecipe(**recipe),
        preprocess=make_preprocess(64, Fitting()),
        image_size_px=64,
        upscaled_below_px=upscaled_below_px,
        seed=seed,
    )


def test_a_draw_is_a_function_of_seed_and_number(photos):
    opened = open_photos([photos], SetOptions())
    whole = DrawDataset(opened, draw_options(), n_draws=40, first=0)
    resumed = DrawDataset(opened, draw_options(), n_draws=10, first=30)
    other = DrawDataset(opened, draw_options(seed=1), n_draws=10, first=30)
    assert all(np.array_equal(whole[30 + i].damaged, resumed[i].damaged) for i in range(10))
    assert not all(np.array_equal(other[i].damaged, resumed[i].damaged) for i in range(10))
    assert sorted(whole[i].row for i in range(N_PHOTOS)) == list(range(N_PHOTOS))
    with pytest.raises(IndexError):
        whole[40]


def test_shares_and_sizes_are_those_of_the_recipe(photos):
    recipe = ControllerRecipe()
    drawn = [draw_kinds(generator(0, i, "test"), recipe) for i in range(4000)]
    clean = np.mean([kinds == ("clean",) for kinds in drawn])
    double = np.mean([len(kinds) == 2 for kinds in drawn])
    assert clean == pytest.approx(0.15, abs=0.02)
    assert double == pytest.approx(0.2, abs=0.02)
    assert {kind for kinds in drawn for kind in kinds} == set(KINDS)
    square = open_photos([photos], SetOptions()).square(0)
    few = draw_options(kinds=("noisy", "hazy"))
    draws = [draw(square, 0, i, few) for i in range(200)]
    assert {tuple(d.target.round(1)) for d in draws} == {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0)}
    sides = [len(d.damaged) for d in draws if d.is_upscaled]
    assert 32 <= min(sides) < 36
    assert 58 < max(sides) < 64
    assert all(d.damaged.shape == d.undamaged.shape for d in draws)
    assert {d.damaged.shape for d in draws if not d.is_upscaled} == {(3, 64, 64)}
    small = np.ascontiguousarray(square[:20, :20])
    assert {len(draw(small, 0, i, few).damaged) for i in range(20)} == {20}  # never enlarged


def test_pictures_are_rendered_as_the_service_renders_them(photos, upscaler):
    opened = open_photos([photos], SetOptions())
    draws = [draw(opened.square(i), i, i, draw_options()) for i in range(8)]
    assert {d.is_upscaled for d in draws} == {True, False}
    liif = load_liif(upscaler)
    ours = render(collate(draws).damaged, liif, 64).numpy()
    checkpoint = tiny_clip("vit")
    checkpoint.config["model_cfg"]["vision_cfg"] = {"image_size": 64}
    backend = TorchBackend(checkpoint, liif, name="model")
    for i, d in enumerate(draws):
        if d.is_upscaled:
            served = backend.render([encode_file(Image.fromarray(d.damaged))], [""], route="upscaled")[0]
            assert np.abs(ours[i].astype(int) - served).max() <= 1  # batches of other sizes round differently
        else:
            assert np.array_equal(ours[i], d.damaged)


@pytest.mark.usefixtures("_short_segments")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(recipe, command, parquet, tmp_path, monkeypatch):
    options = ["--recipe", recipe, *(["--data", str(parquet)] if recipe == "daclip" else [])]
    assert main(command(tmp_path / "whole", *options)) == 0

    class Killed(BaseException):
        pass

    step = _module.ControllerModule.training_step

    def dies(self: _module.ControllerModule, batch: object, batch_idx: int) -> torch.Tensor:
        if self.global_step == 3:  # in the second segment, whose first step is then lost
            raise Killed
        return step(self, batch, batch_idx)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(_module.ControllerModule, "training_step", dies)
        with pytest.raises(Killed):
            main(command(tmp_path / "parts", *options))
    assert not (tmp_path / "parts" / "controller").exists()
    assert main(command(tmp_path / "parts", *options, "--resume")) == 0
    whole, parts = (load_file(tmp_path / run / "controller" / "controller.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert main(command(tmp_path / "parts", *options, "--resume", "--clean-share", "0.5")) == 1


@pytest.mark.usefixtures("_short_segments")
@pytest.mark.parametrize("name", ["vit", "resnet", "efficientnet"])
def test_the_tower_stays_as_it_is_and_the_controller_does_not(name, command, tmp_path, capsys):
    before = save_clip(tiny_clip(name), tmp_path / "own")
    digest = {name: value.clone() for name, value in load_clip(before).model.state_dict().items()}
    kept: list[_module.ControllerModule] = []
    make = _module.ControllerModule.configure_optimizers

    def remember(self: _module.ControllerModule) -> dict[str, object]:
        kept.append(self)
        return make(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_module.ControllerModule, "configure_optimizers", remember)
        assert main(command(tmp_path / "run", "--model", str(before), "--precision", "32-true")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "run" / "controller")
    (module,) = kept
    after = module.checkpoint.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in digest.items())
    assert not module.checkpoint.model.visual.training
    controlled = load_controller(tmp_path / "run" / "controller", load_clip(before))
    assert all(bool(p.detach().any()) for p in controlled.controller.connections.parameters())
    description = json.loads((tmp_path / "run" / "controller" / "controller.json").read_text())
    assert description["kinds"] == list(KINDS)
    figures = description["training"]["held_out_measured"]
    assert figures.keys() == {*_module.HeldOut._fields, *(f"auto_{name}" for name in HeadFigures._fields)}
    assert figures["auto_clean_kept"] >= CLEAN_KEPT
    assert controlled.head is not None
    logged = list((tmp_path / "run" / "logs").glob("events.*"))
    assert logged


def module_for(model, photos, recipe, anchors=20, upscaler=None) -> _module.ControllerModule:
    checkpoint = load_clip(model)
    opened = open_photos([photos], SetOptions())
    torch.manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(anchors, checkpoint.embed_dim), dim=-1)
    module = _module.ControllerModule(
        checkpoint,
        make_controller(checkpoint, recipe),
        upscaler,
        recipe,
        opened.select(range(10)),
        opened.select(range(10, N_PHOTOS)),
        _module.Texts(texts),
        FitOptions(output=Path("unused")),
    )
    module.log = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]
    return module


def test_training_brings_damaged_pictures_back_and_names_the_damage(model, photos):
    recipe = ControllerRecipe(
        kinds=("low-light", "uncompleted"), lr=2e-3, connection_lr=1e-2, warmup=0.0, clean_share=0.3, double_share=0.0
    )
    module = module_for(model, photos, recipe)
    module.held_out = [draw(module.photos.square(i % 10), i % 10, 10**6 + i, module.draw_options) for i in range(40)]
    before = module.judge()
    assert before.cosine == pytest.approx(before.plain_cosine, abs=1e-6)
    optimizer = module.configure_optimizers()["optimizer"]
    data = DrawDataset(module.photos, module.draw_options, n_draws=60 * 16, first=0)
    module.controller.train()
    for step in range(60):
        loss = module.training_step(collate([data[step * 16 + i] for i in range(16)]), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = module.judge()
    assert after.plain_cosine == pytest.approx(before.plain_cosine, abs=1e-6)
    assert 1 - after.cosine < 0.5 * (1 - before.plain_cosine)
    assert after.kinds_top1 > 0.8


@torch.no_grad()
def test_the_plain_embedding_tells_dark_pictures_from_clean_ones(model, photos):
    recipe = ControllerRecipe(kinds=("low-light",), clean_share=0.2, double_share=0.0)
    module = module_for(model, photos, recipe)
    draws = module.more_draws(60)
    assert len({d.number for d in draws} | set(range(60))) == 120  # none that training drew
    seen = module.embed_plain(draws)
    assert seen.embeddings.shape == (120, module.checkpoint.embed_dim)
    assert seen.is_damaged[:60].tolist() == [d.target.argmax() == 0 for d in draws]
    assert not seen.is_damaged[60:].any()
    module.held_out = [draw(module.photos.square(i % 10), i % 10, 10**6 + i, module.draw_options) for i in range(60)]
    _, figures = train_head(seen, module.embed_plain(module.held_out))
    assert figures.damaged_found > 0.6


def test_an_untrained_controller_pulls_nothing_away(model, photos):
    """At the beginning the embedding of an undamaged picture is the target, so nothing is to be learned from it."""
    module = module_for(model, photos, ControllerRecipe(clean_share=1.0, double_share=0.0))
    draws = [draw(module.photos.square(i), i, i, module.draw_options) for i in range(4)]
    batch = collate([d._replace(damaged=d.undamaged) for d in draws])
    damaged, undamaged = module.see(batch)
    module.controller.eval()
    encoding = _module.encode(module._tower[0], module.controller, damaged, is_gated=False)
    losses = module._distill_losses(batch, encoding, module.teach(undamaged))
    assert abs(losses["pull"].item()) < 1e-6
    assert abs(losses["divergence"].item()) < 1e-5
    assert losses["kinds"].item() > 0.1


def test_captions_that_repeat_are_no_negatives(parquet):
    photos, captions = open_captioned([read_pairs(parquet), read_pairs(parquet)])
    assert len(photos) == len(captions.texts) == 96
    assert captions.phrases == ("a photo of a cat.", "a photo of a lawn mower.", "a photo of a ship.")
    assert photos.read(50) == photos.read(2)
    present, is_right = captions.of_batch([0, 3, 48, 1], [0, 1, 2, 3], seed=0)
    assert present.tolist() == [0, 1]
    assert is_right.tolist() == [[True, False], [True, False], [True, False], [False, True]]


def test_the_papers_loss_at_equal_answers_is_that_of_chance(model, photos):
    """B pictures of C balanced texts, all embedded alike: the mean of ln C by picture and ln B by text."""
    recipe = RECIPES["daclip"]
    module = module_for(model, photos, recipe)
    module._trainer = type("Alone", (), {"world_size": 1})()
    draws = [draw(module.photos.square(i), i, i, module.draw_options) for i in range(6)]
    batch = collate([d._replace(target=np.eye(11, dtype=np.float32)[i % 2]) for i, d in enumerate(draws)])
    phrases = tuple(f"caption {i}" for i in range(20))
    captions = _module.Captions(texts=[(i % 3,) for i in range(10)], phrases=phrases)
    module.texts = _module.Texts(torch.ones(20, 16) / 4, captions)
    alike = _module.Encoding(torch.ones(6, 16), torch.ones(6, 16), torch.zeros(6, 11))
    with torch.no_grad():
        module.controller.prototypes.fill_(1)
        losses = module._daclip_losses(batch, alike)
    assert losses["captions"].item() == pytest.approx((np.log(3) + np.log(6)) / 2, abs=1e-4)
    assert losses["kinds"].item() == pytest.approx((np.log(2) + np.log(6)) / 2, abs=1e-4)


def test_bad_input_is_one_sentence(command, photos, model, tmp_path, capsys):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"no image")
    same_words = tiny_clip("vit")
    with torch.no_grad():
        same_words.model.token_embedding.weight.zero_()
    save_clip(same_words, tmp_path / "same-words")
    for more, sentence in (
        (["--batch-size", "24", "--draws", "24"], "13 photos to train on (1 are kept to measure on) are fewer"),
        (["--draws", "3"], "3 draws are fewer than one batch takes (4)"),
        (["--data", str(broken)], "1 of 1 images of the photos can't be read"),
        (["--data", str(tmp_path / "nowhere")], "no data at"),
        (["--anchors", "cat"], "anchors are nouns to tell apart"),
        (["--clean-share", "0.9"], "exceed it together"),
        (["--recipe", "daclip", "--model", str(tmp_path / "same-words")], "too close to tell"),
        (["--resume"], "nothing to resume"),
    ):
        assert main(command(tmp_path / "run", *more)) == 1, more
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert sentence in error.strip().splitlines()[-1]
    with pytest.raises(SystemExit):
        main(command(tmp_path / "run", "--kinds", "noisy,foggy"))
    assert "unknown kind 'foggy'; choose from shadowed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"draws": 0}, "draws must be a finite number of at least 1"),
        ({"lr": float("nan")}, "lr must be a finite number"),
        ({"warmup": 2.0}, "warmup must be 0 to 1"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1"),
        ({"kinds": ()}, "name one kind of damage or more"),
        ({"kinds": ("clean",)}, "name one kind of damage or more"),
    ],
)
def test_recipes_are_checked(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        ControllerRecipe(**wrong)
