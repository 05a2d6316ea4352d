"""`clipsr-train restorer`: draws, learning, resume, pictures, and what it says of bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from clipsr_training._cli.train import main
from clipsr_training._fit import FitOptions
from clipsr_training.adapt._photos import Photos, open_photos
from clipsr_training.data import SetOptions
from clipsr_training.degradation import CLEAN, DEGRADATIONS, KINDS
from clipsr_training.restoration import _draws, _module, load_restorer
from clipsr_training.restoration._contexts import KindContexts, contexts_of, share_kinds
from clipsr_training.restoration._draws import DrawDataset, DrawOptions, collate, cut, draw, draw_kinds
from clipsr_training.restoration._recipe import RestorerRecipe
from tests.training.made import write_photos

N_PHOTOS = 12
BATCH = 4
RECIPE = RestorerRecipe(multipliers=(1, 1), side_px=16, batch_size=BATCH, draws=6 * BATCH)


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "photos", N_PHOTOS, (60, 50))


@pytest.fixture
def opened(photos) -> Photos:
    return open_photos([photos], SetOptions())


@pytest.fixture
def command(photos, monkeypatch):
    """A run of six steps in three segments, with a tiny network."""
    monkeypatch.setattr(_module, "STEPS_PER_SEGMENT", 2)
    monkeypatch.setattr(RestorerRecipe, "network", lambda self, dim, full=RestorerRecipe.network: tiny(full(self, dim)))

    def options(output: Path, *more: str) -> list[str]:
        return [
            *("restorer", "--data", str(photos), "--draws", str(6 * BATCH), "--batch-size", str(BATCH)),
            *("--side", "16", "--workers", "0", "--output", str(output), *more),
        ]

    return options


def tiny(config):
    """The same network with two levels."""
    return replace(config, multipliers=(1, 1))


def draw_options(recipe: RestorerRecipe = RECIPE, seed: int = 0) -> DrawOptions:
    return DrawOptions(recipe=recipe, n_times=100, seed=seed)


def test_a_draw_is_a_function_of_seed_and_number(opened):
    whole = DrawDataset([opened], draw_options(), n_draws=40, first=0)
    resumed = DrawDataset([opened], draw_options(), n_draws=10, first=30)
    other = DrawDataset([opened], draw_options(seed=1), n_draws=10, first=30)
    for i in range(10):
        assert all(np.array_equal(a, b) for a, b in zip(whole[30 + i], resumed[i], strict=True))
    assert not all(np.array_equal(other[i].lq, resumed[i].lq) for i in range(10))


def test_sources_take_turns_whatever_they_hold(opened, tmp_path):
    few = open_photos([write_photos(tmp_path / "few", 2, (20, 20), seed=1)], SetOptions())
    names: list[str] = []
    sources = [
        Photos(names=s.names, read=lambda i, s=s: names.append(s.names[i]) or s.read(i))  # pyright: ignore[reportReturnType]
        for s in (opened, few)
    ]
    data = DrawDataset(sources, draw_options(), n_draws=2 * N_PHOTOS, first=0)
    for i in range(2 * N_PHOTOS):
        data[i]
    assert len(set(names[::2])) == N_PHOTOS  # every photo once
    assert [names[1::2].count(name) for name in few.names] == [N_PHOTOS / 2] * 2


def test_shares_of_damage_and_of_times_are_those_of_the_recipe(opened):
    rng = np.random.default_rng(0)
    kinds = [draw_kinds(rng, RestorerRecipe()) for _ in range(4000)]
    counts = np.bincount([len(own) for own in kinds]) / len(kinds)
    assert np.allclose(counts, [0.1, 0.7, 0.2], atol=0.02)
    assert all(list(own) == sorted(own, key=KINDS.index) for own in kinds)
    assert {kind for own in kinds for kind in own} == set(DEGRADATIONS)
    times = np.array([draw(opened, 0, i, draw_options()).time for i in range(300)])
    assert 0.4 < (times == 100).mean() < 0.6
    assert times.min() < 10


def test_some_draws_do_not_tell_what_is_wrong(opened):
    told = np.array([draw(opened, 0, i, draw_options()).kinds.sum() for i in range(300)])
    assert set(told.round(5)) == {0.0, 1.0}
    assert 0.03 < (told == 0).mean() < 0.2


def test_kinds_are_shares():
    assert share_kinds(["hazy", "noisy"])[KINDS.index("noisy")] == 0.5
    assert share_kinds([])[KINDS.index(CLEAN)] == 1
    assert not share_kinds(None).any()
    content, degradation = KindContexts().embed(torch.zeros(1, 3, 4, 4), torch.ones(1, 11))
    assert torch.equal(content, degradation)


def test_squares_are_cut_at_scales_that_a_photo_can_hold():
    rng = np.random.default_rng(0)
    ramp = np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 300, 3))
    steps = [np.ptp(cut(ramp, rng, 32, 4.0)[:, 0, 0].astype(int)) / 31 for _ in range(200)]
    assert 0.9 < min(steps) < 1.2
    assert 3.6 < max(steps) < 4.1
    assert cut(ramp[:21, :40], rng, 32, 4.0).shape == (16, 16, 3)


def test_batches_hold_groups_of_one_size(opened, tmp_path):
    small = open_photos([write_photos(tmp_path / "few", 2, (20, 20), seed=1)], SetOptions())
    recipe = RestorerRecipe(side_px=32, multipliers=(1, 1))
    groups = collate([draw(source, 1, i, draw_options(recipe)) for i, source in enumerate((opened, small, opened))])
    assert [tuple(group.lq.shape) for group in groups] == [(1, 3, 16, 16), (2, 3, 32, 32)]
    assert all(group.noise.shape == group.lq.shape for group in groups)
    assert all(group.kinds.shape == (len(group.lq), len(KINDS)) for group in groups)


@pytest.mark.parametrize("contexts", ["none", "kinds"])
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(contexts, command, tmp_path, monkeypatch):
    options = ("--contexts", contexts)
    assert main(command(tmp_path / "whole", *options)) == 0

    class Killed(BaseException):
        pass

    step = _module.RestorerModule.training_step

    def dies(self, batch, batch_idx):
        if self.global_step == 3:  # in the second segment, whose first step is then lost
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(_module.RestorerModule, "training_step", dies)
        with pytest.raises(Killed):
            main(command(tmp_path / "parts", *options))
    assert not (tmp_path / "parts" / "restorer.safetensors").exists()
    assert main(command(tmp_path / "parts", *options, "--resume")) == 0
    whole, parts = (load_file(tmp_path / run / "restorer.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    restorer = load_restorer(tmp_path / "whole" / "restorer.safetensors")
    assert (contexts_of(restorer) is None) == (contexts == "none")
    log = EventAccumulator(str(tmp_path / "whole" / "logs"))
    log.Reload()
    assert {"held_out/psnr_db_1", "held_out/psnr_db_5"} <= set(log.Tags()["scalars"])
    (name,) = log.Tags()["images"]
    assert len(log.Images(name)) == 3
    assert log.Images(name)[0].height == 4 * 16


def test_a_run_is_resumed_with_its_own_settings_only(command, tmp_path, capsys):
    assert main(command(tmp_path / "run")) == 0
    assert main(command(tmp_path / "run")) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert main(command(tmp_path / "run", "--resume", "--contexts", "kinds")) == 1
    assert "contexts was 'none' and is now 'kinds'" in capsys.readouterr().err


@pytest.mark.parametrize("contexts", [None, KindContexts()])
def test_a_restorer_learns_to_remove_damage(opened, contexts, monkeypatch):
    monkeypatch.setattr(_draws, "draw_kinds", lambda *_: ("low-light",))
    options = FitOptions(output=Path("unused"))
    module = _module.RestorerModule(contexts, RECIPE, [opened], [opened.select([0])], options)
    module.log = lambda *_, **__: None
    (group,) = module._held_out_groups(1)
    damaged = -10 * torch.log10((group.lq / 255 - group.clean / 255).square().mean())
    assert module.held_out_psnr(1) == pytest.approx(float(damaged), abs=1e-3)  # an untrained one changes nothing
    batch = collate([draw(opened, i + 1, i, module.draw_options) for i in range(8)])
    optimizer = torch.optim.Adam(module.restorer.parameters(), 1e-3)
    losses: list[float] = []
    for _ in range(10):
        loss = module.training_step(batch, 0)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert module.held_out_psnr(1) > float(damaged) + 3
    if contexts is not None:
        told = module._restore(group, 1)
        other = module._restore(group._replace(kinds=torch.from_numpy(share_kinds(["hazy"]))[None]), 1)
        assert (told - other).abs().max() > 1e-6


def test_bad_input_is_one_sentence(command, tmp_path, capsys):
    write_photos(tmp_path / "tiny", 2, (12, 40))
    write_photos(tmp_path / "one", 1, (40, 40))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"no image")
    for more, sentence in (
        (["--draws", "3"], "3 draws are fewer than one batch takes (4)"),
        (["--side", "20"], "side_px must be a multiple of 8"),
        (["--width", "20"], "transformers have heads of 32 channels"),
        (["--data", str(broken)], "can't be read"),
        (["--data", str(tmp_path / "tiny")], "holds no picture of 16 px or more"),
        (["--data", str(tmp_path / "one")], "leaves none to train on"),
        (["--data", str(tmp_path / "nowhere")], "no data at"),
    ):
        assert main(command(tmp_path / "run", *more)) == 1
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert sentence in error.strip().splitlines()[-1]
