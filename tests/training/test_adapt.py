"""Adaptation without labels: draws, rendering, losses, resume, selection, and what it says of bad input."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from clipsr_training._cli.train import main
from clipsr_training.adapt import _module, read_nouns
from clipsr_training.adapt._photos import (
    CANVAS_SIZES_PX,
    DrawDataset,
    DrawOptions,
    check_photos,
    collate,
    draw,
    open_photos,
    split_held_out,
)
from clipsr_training.adapt._rendering import quantize, render_canvases
from clipsr_training.clip import load_clip
from clipsr_training.clip._preprocess import Fitting, make_preprocess
from clipsr_training.data import SetOptions
from clipsr_training.data._route_table import estimate_noise
from clipsr_training.evaluation._backends.pixels import encode
from clipsr_training.evaluation._backends.torch import TorchBackend
from clipsr_training.liif import Upscaler, load_liif
from clipsr_training.liif._upscaler import to_uint8
from tests.training.made import write_clip, write_photos, write_upscaler

N_PHOTOS = 14
BATCH = 4


@pytest.fixture
def photos(tmp_path) -> Path:
    """Smooth photos of 90x100 px, in a folder below another."""
    return write_photos(tmp_path / "photos" / "2019", N_PHOTOS, (100, 90), cells_hw=(9, 10)).parent


@pytest.fixture
def model(tmp_path) -> Path:
    return write_clip(tmp_path / "model")


@pytest.fixture
def upscaler(tmp_path) -> Path:
    return write_upscaler(tmp_path / "liif.safetensors")


@pytest.fixture
def command(photos, model, upscaler):
    """A run of six steps in three segments."""

    def options(output: Path, *more: str) -> list[str]:
        return [
            *("adapt", "--model", str(model), "--upscaler", str(upscaler), "--data", str(photos)),
            *("--anchors", "@cifar10", "--draws", str(6 * BATCH), "--batch-size", str(BATCH)),
            *("--workers", "0", "--output", str(output), *more),
        ]

    return options


@pytest.fixture
def _short_segments(monkeypatch) -> None:
    monkeypatch.setattr(_module, "STEPS_PER_SEGMENT", 2)


def draw_options(
    seed: int = 0, teacher_side_px: int | None = None, max_noise: float = 6.0, damaged_share: float = 0.0
) -> DrawOptions:
    return DrawOptions(
        preprocess=make_preprocess(64, Fitting()),
        image_size_px=64,
        teacher_side_px=teacher_side_px,
        teacher_both_routes=False,
        max_noise=max_noise,
        damaged_share=damaged_share,
        seed=seed,
    )


def test_a_draw_is_a_function_of_seed_and_number(photos):
    opened = open_photos([photos], SetOptions())
    whole = DrawDataset(opened, draw_options(), n_draws=40, first=0)
    resumed = DrawDataset(opened, draw_options(), n_draws=10, first=30)
    other = DrawDataset(opened, draw_options(seed=1), n_draws=10, first=30)
    assert all(np.array_equal(whole[30 + i].thumbnail, resumed[i].thumbnail) for i in range(10))
    assert not all(np.array_equal(other[i].thumbnail, resumed[i].thumbnail) for i in range(10))


def test_every_pass_shows_every_photo_once(photos):
    opened = open_photos([photos], SetOptions())
    data = DrawDataset(opened, draw_options(), n_draws=2 * N_PHOTOS, first=0)
    seen = [min(data[i].photo.tobytes(), data[i].photo[:, :, ::-1].tobytes()) for i in range(2 * N_PHOTOS)]
    assert len(set(seen[:N_PHOTOS])) == N_PHOTOS
    assert sorted(seen[:N_PHOTOS]) == sorted(seen[N_PHOTOS:])
    assert seen[:N_PHOTOS] != seen[N_PHOTOS:]


def test_sizes_reach_from_8_px_to_the_encoder(photos):
    square = open_photos([photos], SetOptions()).square(0)
    sides = np.array([len(draw(square, i, draw_options()).thumbnail) for i in range(400)])
    assert sides.min() == 8
    assert sides.max() == 64
    assert 0.4 < (sides <= 32).mean() < 0.6


def test_thumbnails_are_rendered_as_the_service_renders_them(photos, model, upscaler):
    draws = [draw(open_photos([photos], SetOptions()).square(i), i, draw_options()) for i in range(8)]
    batch = collate(draws)
    assert {own.pixels.shape[-1] for own in batch.thumbnails} <= set(CANVAS_SIZES_PX)
    liif = load_liif(upscaler)
    with torch.no_grad():
        ours = to_uint8(render_canvases(liif, batch.thumbnails, 64)).numpy()
    files = [encode(Image.fromarray(d.thumbnail)) for d in draws]
    backend = TorchBackend(load_clip(model), liif, name="model")
    served = backend.render(files, [str(i) for i in range(8)], route="upscaled")
    # Batches of other sizes round differently, by a level at most.
    assert np.abs(ours.astype(int) - served).max() <= 1
    assert (ours == served).mean() > 0.999


def test_rounding_is_that_of_the_service_and_passes_gradients():
    sr = torch.tensor([-0.2, 0.1, 0.5011, 1.3], requires_grad=True)
    levels = quantize(sr)
    assert torch.equal((levels * 255).round(), to_uint8(sr.detach()).float())
    assert torch.allclose(levels * 255, (levels * 255).round(), atol=1e-4)
    levels.sum().backward()
    assert sr.grad is not None
    assert torch.allclose(sr.grad, torch.tensor([0.1, 1.0, 1.0, 0.1]))


# Its first step is then lost.
_KILLED_IN_THE_SECOND_SEGMENT = """
import os, signal, sys
from clipsr_training._cli.train import main
from clipsr_training.adapt import _module
from tests.training.made import write_photos, write_upscaler

step = _module.AdaptModule.training_step

def killed(self, batch, batch_idx):
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)

_module.STEPS_PER_SEGMENT = 2
_module.AdaptModule.training_step = killed
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("_short_segments")
@pytest.mark.parametrize("tune", ["upscaler", pytest.param("tower", marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(forks, tune, command, tmp_path):
    options = ("--tune", tune, "--tower-lr", "1e-3")
    assert main(command(tmp_path / "whole", *options)) == 0

    ended = forks.run(_KILLED_IN_THE_SECOND_SEGMENT, *command(tmp_path / "parts", *options))
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not (tmp_path / "parts" / "liif.safetensors").exists()
    assert main(command(tmp_path / "parts", *options, "--resume")) == 0
    names = ["liif.safetensors"] + (["clip/open_clip_model.safetensors"] if tune == "tower" else [])
    for name in names:
        whole, parts = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
        assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.usefixtures("_short_segments")
def test_only_the_upscaler_changes_and_the_best_weights_are_kept(command, upscaler, tmp_path, monkeypatch):
    kept: list[_module.AdaptModule] = []
    restore = _module.AdaptModule.restore_best

    def remember(self: _module.AdaptModule) -> float:
        kept.append(self)
        return restore(self)

    answers = iter([0.1, 0.2, 0.9, 0.3])  # before the first step, then after every segment
    monkeypatch.setattr(_module.AdaptModule, "restore_best", remember)
    monkeypatch.setattr(_module.AdaptModule, "agreement", lambda self: next(answers))
    assert main(command(tmp_path / "run")) == 0
    (module,) = kept
    frozen = module._frozen[0].state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in module.tower.state_dict().items())
    assert module.best is not None
    assert module.best[0] == 0.9
    written, before = load_liif(tmp_path / "run" / "liif.safetensors"), load_liif(upscaler)
    assert written.scale_max == 16
    best = module.best[1]
    assert all(torch.equal(value, best[f"upscaler.{name}"]) for name, value in written.state_dict().items())
    assert any(not torch.equal(value, before.state_dict()[name]) for name, value in written.state_dict().items())
    assert not (tmp_path / "run" / "clip").exists()


@pytest.mark.usefixtures("_short_segments")
def test_the_upscaler_is_fitted_to_the_tower_that_is_kept(command, model, tmp_path, monkeypatch):
    kept: list[_module.AdaptModule] = []

    def go_back(self: _module.AdaptModule) -> float:
        kept.append(self)
        self.tower.load_state_dict(self._frozen[0].state_dict())
        return 0.0

    # Before the first step, after the first segment; the upscaler of before and the tuned one; after two segments more.
    answers = iter([0.9, 0.8, 0.1, 0.2, 0.2, 0.3])
    monkeypatch.setattr(_module.AdaptModule, "interpolate_tower", go_back)
    monkeypatch.setattr(_module.AdaptModule, "agreement", lambda self: next(answers))
    assert main(command(tmp_path / "run", "--tune", "tower", "--tower-lr", "1e-2")) == 0
    (module,) = kept
    assert module.best is not None
    assert module.best[0] == 0.3
    frozen = module._frozen[0].state_dict()
    assert all(torch.equal(value, frozen[name]) for name, value in module.tower.state_dict().items())
    assert json.loads((tmp_path / "run" / "tower.json").read_text()) == {"tower_change_kept": 0.0, "disagreement": 0.0}


def test_a_tower_goes_back_until_undamaged_photos_are_answered_as_before(monkeypatch):
    module = _module.AdaptModule.__new__(_module.AdaptModule)
    _module.LightningModule.__init__(module)
    module.recipe = _module.AdaptRecipe(interpolation_steps=4, max_disagreement=0.1)
    first, tower = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(first.weight, 0)
    nn.init.constant_(tower.weight, 1)
    module._frozen, module.tower = [first], tower
    monkeypatch.setattr(module, "disagreement", lambda: 0.16 * tower.weight.item())
    assert module.interpolate_tower() == 0.5
    assert tower.weight.item() == 0.5
    monkeypatch.setattr(module, "disagreement", lambda: 1.0)
    assert module.interpolate_tower() == 0
    assert tower.weight.item() == 0


def test_training_brings_thumbnails_closer_to_their_photos(photos, model, upscaler):
    checkpoint, options = load_clip(model), _module.FitOptions(output=Path("unused"))
    opened = open_photos([photos], SetOptions())
    recipe = _module.AdaptRecipe(draws=64, batch_size=8)
    anchors = torch.nn.functional.normalize(torch.randn(20, checkpoint.embed_dim), dim=-1)
    module = _module.AdaptModule(checkpoint, load_liif(upscaler), recipe, opened, opened.select([0]), anchors, options)
    module._pixel_weight = lambda: 0.1
    module.log = lambda *_, **__: None
    batch = collate([draw(opened.square(i), i, module.draw_options) for i in range(8)])
    optimizer = torch.optim.Adam(module.upscaler.parameters(), 3e-3)
    losses: list[float] = []
    for _ in range(15):
        loss = module.training_step(batch, 0)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_a_teacher_may_see_the_reduced_photo_as_the_upscaler_rendered_it(photos, model, upscaler):
    checkpoint, options = load_clip(model), _module.FitOptions(output=Path("unused"))
    opened = open_photos([photos], SetOptions())
    recipe = _module.AdaptRecipe(teacher_side_px=32)
    anchors = torch.eye(checkpoint.embed_dim)
    module = _module.AdaptModule(checkpoint, load_liif(upscaler), recipe, opened, opened.select([0]), anchors, options)
    item = draw(opened.square(3), 3, module.draw_options)
    assert item.reduced is not None
    file = encode(Image.fromarray(item.reduced))
    backend = TorchBackend(load_clip(model), load_liif(upscaler), name="model")
    expected = backend.embed_images([file], ["3"], route="upscaled")
    assert np.allclose(module.teach(collate([item])).numpy(), expected, atol=1e-3)


def test_a_teacher_may_have_an_upscaler_of_its_own(photos, model, upscaler):
    checkpoint, options = load_clip(model), _module.FitOptions(output=Path("unused"))
    opened = open_photos([photos], SetOptions())
    recipe, anchors, other = (
        _module.AdaptRecipe(teacher_side_px=32),
        torch.eye(checkpoint.embed_dim),
        load_liif(upscaler),
    )
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)

    def module(first: Upscaler, teacher: Upscaler | None) -> _module.AdaptModule:
        parts = (checkpoint, first, recipe, opened, opened.select([0]), anchors, options)
        return _module.AdaptModule(*parts, teacher_upscaler=teacher)

    first = module(load_liif(upscaler), None)
    batch = collate([draw(opened.square(3), 3, first.draw_options)])
    assert torch.equal(module(other, load_liif(upscaler)).teach(batch), first.teach(batch))
    assert not torch.equal(module(other, None).teach(batch), first.teach(batch))


def test_a_teacher_may_be_asked_by_both_routes(photos, model, upscaler):
    checkpoint, options = load_clip(model), _module.FitOptions(output=Path("unused"))
    opened = open_photos([photos], SetOptions())
    recipe = _module.AdaptRecipe(teacher_side_px=32, teacher_both_routes=True)
    anchors = torch.eye(checkpoint.embed_dim)
    module = _module.AdaptModule(checkpoint, load_liif(upscaler), recipe, opened, opened.select([0]), anchors, options)
    items = [draw(opened.square(i), i, module.draw_options) for i in (3, 4)]
    files = [encode(Image.fromarray(item.reduced)) for item in items if item.reduced is not None]
    backend = TorchBackend(load_clip(model), load_liif(upscaler), name="model")
    answers = sum(backend.embed_images(files, ["3", "4"], route=route) for route in ("upscaled", "native"))
    expected = answers / np.linalg.norm(answers, axis=1, keepdims=True)
    assert np.allclose(module.teach(collate(items)).numpy(), expected, atol=1e-3)


def test_thumbnails_are_as_noisy_as_asked(photos):
    square = np.full((64, 64, 3), 128, dtype=np.uint8)

    def noise(largest: float) -> float:
        options = draw_options(max_noise=largest)
        return max(estimate_noise(draw(square, number, options).thumbnail) for number in range(60))

    assert noise(1.0) <= 3 < 15 < noise(40.0) < 45


def test_a_part_of_the_thumbnails_is_damaged_as_well(photos):
    square = np.full((64, 64, 3), 200, dtype=np.uint8)

    def dark_share(damaged: float) -> float:
        options = draw_options(damaged_share=damaged)
        # No reduction, blur, noise or file makes an even picture this dark.
        return float(np.mean([draw(square, number, options).thumbnail.mean() < 150 for number in range(200)]))

    assert dark_share(0) == 0
    assert 0.03 < dark_share(0.5) < dark_share(1) < 0.5
    again = [draw(square, number, draw_options(damaged_share=0.5)).thumbnail for number in (0, 1, 2, 0, 1, 2)]
    assert all(np.array_equal(own, other) for own, other in zip(again[:3], again[3:], strict=True))


def test_photos_are_kept_off_training_and_always_the_same():
    train, held_out = split_held_out(1000, 0.05, 500, seed=3)
    assert len(held_out) == 50
    assert sorted([*train, *held_out]) == list(range(1000))
    assert np.array_equal(held_out, split_held_out(1000, 0.05, 500, seed=3)[1])
    assert len(split_held_out(3, 0.05, 500, seed=3)[1]) == 1


def test_photos_smaller_than_the_encoder_are_counted(photos):
    Image.new("RGB", (40, 50)).save(photos / "small.png")
    Image.new("RGB", (12, 50)).save(photos / "tiny.png")
    opened = open_photos([photos], SetOptions())
    with pytest.warns(UserWarning, match="smaller than") as said:
        used = check_photos(opened, 64)
    assert f"{N_PHOTOS + 1} of {N_PHOTOS + 2} photos are used" in str(said[0].message)
    assert f"1 of the {N_PHOTOS + 1} photos used are smaller than the encoder's 64 px" in str(said[-1].message)
    assert len(used) == N_PHOTOS + 1


@pytest.mark.filterwarnings("ignore:.*smaller than the encoder")
def test_labelled_sources_serve_as_photos(parquet, command, tmp_path):
    arguments = command(tmp_path / "run", "--data", str(parquet), "--draws", str(BATCH))
    assert main(arguments) == 0


def test_bad_input_is_one_sentence(command, photos, model, upscaler, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    state = load_file(upscaler)
    state["output.weight"] = torch.zeros(3, 5)
    with safe_open(upscaler, "pt") as file:
        save_file(state, other, metadata=file.metadata())
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"no image")
    for more, sentence in (
        (["--batch-size", "24", "--draws", "24"], "13 photos to train on (1 are kept to choose weights by) are fewer"),
        (["--draws", "3"], "3 draws are fewer than one batch takes (4)"),
        (["--upscaler", str(other)], "does not fit the model that it describes"),
        (["--data", str(broken)], "1 of 1 images of the photos can't be read"),
        (["--data", str(tmp_path / "nowhere")], "no data at"),
        (["--anchors", "cat"], "anchors are nouns to tell apart"),
        (["--teacher-both-routes"], "say its side with --teacher-side"),
        (["--teacher-upscaler", str(upscaler)], "say their side with --teacher-side"),
        (["--max-noise", "200"], "max_noise must be 1 to 128, got 200"),
    ):
        assert main(command(tmp_path / "run", *more)) == 1
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert sentence in error.strip().splitlines()[-1]


def test_nouns_are_read_from_sets_files_and_lists(tmp_path):
    (tmp_path / "nouns.txt").write_text("wren, winter\nowl\n\nowl\n")
    assert read_nouns(str(tmp_path / "nouns.txt")) == ("wren, winter", "owl")
    assert read_nouns("cat, dog") == ("cat", "dog")
    assert len(read_nouns("@cifar10+@cifar100")) == 110
    assert len(read_nouns(None)) > 990
    with pytest.raises(ValueError, match="no label set @nothing; known: @cifar10"):
        read_nouns("@nothing")
