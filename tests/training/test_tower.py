"""Training of an image tower beside a text tower that stays: pool, draws, replay, resume, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipsr_training import prompts
from clipsr_training._cli.train import main
from clipsr_training.clip import load_clip, save_clip
from clipsr_training.clip._checkpoint import read_taught_names
from clipsr_training.clip._preprocess import Fitting, make_preprocess
from clipsr_training.controller._draws import render
from clipsr_training.data import read_pairs
from clipsr_training.liif import ModulatedLIIF, load_liif, save_liif
from clipsr_training.liif._encoders import EDSR
from clipsr_training.tower import TowerRecipe, _module, _replay, _train
from clipsr_training.tower._draws import DrawDataset, DrawOptions, collate
from clipsr_training.tower._pool import pool_sources
from tests.training.made_images import class_folders
from tests.training.tiny_clips import tiny_clip

BATCH = 4
PER_CLASS = 6
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    """Two sources; one name occurs in both."""
    return [
        class_folders(tmp_path / "first", ("red", "green"), per_class=PER_CLASS),
        class_folders(tmp_path / "second", ("green", "blue_sky", "mushroom"), per_class=PER_CLASS, size_hw=(40, 48)),
    ]


@pytest.fixture
def upscaler(tmp_path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "liif.safetensors"
    save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=4), latent_dim=8, hidden_dim=4), path)
    return path


@pytest.fixture
def command(folders, upscaler, tmp_path):
    """A run of six steps in three segments, with replay of another model."""
    models = [save_clip(tiny_clip("efficientnet", seed), tmp_path / f"model-{seed}") for seed in (0, 1)]

    def options(output: Path, *more: str) -> list[str]:
        return [
            *("tower", "--model", str(models[0]), "--upscaler", str(upscaler), "--data", *map(str, folders)),
            *("--replay", str(models[1]), "--nouns", "@cifar10", "--draws", str(6 * BATCH)),
            *("--batch-size", str(BATCH), "--workers", "0", "--output", str(output), *more),
        ]

    return options


@pytest.fixture
def _short_segments(monkeypatch) -> None:
    monkeypatch.setattr(_module, "STEPS_PER_SEGMENT", 2)


def draw_options(seed: int = 0, *, has_upscaler: bool = True, **recipe) -> DrawOptions:
    return DrawOptions(
        recipe=TowerRecipe(**recipe),
        preprocess=make_preprocess(64, Fitting()),
        has_upscaler=has_upscaler,
        seed=seed,
    )


def test_sources_share_one_numbering_and_keep_their_own_names(folders):
    pool = pool_sources([read_pairs(folder) for folder in folders], hold_out=False)
    assert sorted(pool.names) == ["blue sky", "green", "mushroom", "red"]
    assert len(pool) == 5 * PER_CLASS
    chosen = [{pool.names[i] for i in np.flatnonzero(row)} for row in pool.is_choice]
    assert chosen == [{"red", "green"}, {"green", "blue sky", "mushroom"}]
    for index in range(len(pool)):
        red, green, blue = pool.square(index).reshape(-1, 3).mean(axis=0)
        if pool.names[pool.name[index]] == "red":
            assert red > max(green, blue)
        assert pool.square(index).shape[0] == (32, 40)[pool.source[index]]


def test_what_is_held_out_is_in_no_draw_and_no_name(folders):
    assert prompts.is_held_out("mushroom")
    pool = pool_sources([read_pairs(folder) for folder in folders], hold_out=True)
    assert sorted(pool.names) == ["blue sky", "green", "red"]
    assert len(pool) == 4 * PER_CLASS
    assert not any("mushroom" in pool.sources[s].where(r) for s, r in zip(pool.source, pool.row, strict=True))


def test_a_draw_is_a_function_of_seed_and_number(folders):
    pool = pool_sources([read_pairs(folder) for folder in folders], hold_out=False)
    rows = np.arange(len(pool))
    whole = DrawDataset(pool, rows, draw_options(), n_draws=40, first=0)
    resumed = DrawDataset(pool, rows, draw_options(), n_draws=10, first=30)
    other = DrawDataset(pool, rows, draw_options(seed=1), n_draws=10, first=30)
    assert all(np.array_equal(whole[30 + i].pixels, resumed[i].pixels) for i in range(10))
    assert not all(np.array_equal(other[i].pixels, resumed[i].pixels) for i in range(10))
    assert sorted(whole[i].index for i in range(len(pool))) == list(range(len(pool)))


def test_pictures_come_as_the_recipe_says(folders, upscaler):
    pool = pool_sources([read_pairs(folders[0])], hold_out=False)
    rows = np.arange(len(pool))

    def drawn(**recipe) -> list:
        dataset = DrawDataset(pool, rows, draw_options(**recipe), n_draws=120, first=0)
        return [dataset[i] for i in range(120)]

    mixed = drawn()
    assert 0.35 < np.mean([d.is_upscaled for d in mixed]) < 0.65
    sides = [len(d.pixels) for d in drawn(upscaled_share=1, small_share=1, damaged_share=0)]
    assert min(sides) < 12
    assert max(sides) <= 32
    own = drawn(upscaled_share=1, small_share=0, damaged_share=0)
    assert {d.pixels.shape for d in own} == {(32, 32, 3)}
    assert not any(d.is_upscaled for d in drawn(has_upscaler=False))
    pixels = render(collate(mixed).views, load_liif(upscaler), 64)
    assert pixels.shape == (120, 3, 64, 64)
    assert pixels.dtype == torch.uint8


def test_the_replayed_model_is_asked_once(folders, tmp_path, monkeypatch):
    sources = [read_pairs(folder) for folder in folders]
    pool = pool_sources(sources, hold_out=False)
    clip = tiny_clip("efficientnet", 1)
    nouns = ("red", "green", "mushroom")
    first = _replay.ask(clip, nouns, sources, tmp_path / "replay", hold_out=False)
    said = first.probabilities(pool, torch.arange(len(pool)))
    assert said.shape == (len(pool), 3)
    torch.testing.assert_close(said.sum(dim=1), torch.ones(len(pool)))
    assert said.std(dim=0).min() > 0
    monkeypatch.setattr(_replay, "_batches", None)
    again = _replay.ask(clip, nouns, sources, tmp_path / "replay", hold_out=True)
    assert again.nouns == ("red", "green")
    assert all(np.array_equal(own, other) for own, other in zip(first.images, again.images, strict=True))
    assert again.digest != first.digest


@pytest.mark.usefixtures("_short_segments")
def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(command, tmp_path, monkeypatch):
    assert main(command(tmp_path / "whole")) == 0

    class Killed(BaseException):
        pass

    step = _module.TowerModule.training_step

    def dies(self, batch, batch_idx):
        if self.global_step == 3:  # in the second segment, whose first step is then lost
            raise Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(_module.TowerModule, "training_step", dies)
        with pytest.raises(Killed):
            main(command(tmp_path / "parts"))
    assert not (tmp_path / "parts" / "clip").exists()
    assert main(command(tmp_path / "parts", "--resume")) == 0
    whole, parts = (load_file(tmp_path / run / "clip" / WEIGHTS) for run in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_text_tower_stays_and_the_image_tower_learns(command, tmp_path):
    assert main(command(tmp_path / "run", "--lr", "0.01")) == 0
    first, last = (load_file(path / WEIGHTS) for path in (tmp_path / "model-0", tmp_path / "run" / "clip"))
    # Half precision on disk.
    moved = [name for name, value in first.items() if not torch.equal(value.half(), last[name].half())]
    assert {name.partition(".")[0] for name in moved} <= {"visual", "logit_scale"}
    assert not (tmp_path / "run" / "clip" / "taught_names.txt").exists()  # it was not known what the model knew
    assert any(name.endswith("conv_stem.weight") for name in moved)
    assert any(name.endswith("running_mean") for name in moved)


def test_pictures_may_be_kept_where_the_replayed_model_has_them(command, tmp_path, monkeypatch):
    """The model replays itself, so what it is held to is the place that it begins at, as far as the nouns tell."""
    seen: list[dict[str, float]] = []
    step = _module.TowerModule.training_step

    def record(self, batch, batch_idx):
        logged: dict[str, float] = {}
        monkeypatch.setattr(
            self, "log", lambda name, value, **_: logged.update({name: float(torch.as_tensor(value).detach())})
        )
        loss = step(self, batch, batch_idx)
        assert torch.isclose(loss, torch.tensor(sum(logged[f"train/{n}"] for n in ("names", "replay", "embedding"))))
        seen.append(logged)
        return loss

    monkeypatch.setattr(_module.TowerModule, "training_step", record)
    more = ("--embedding-weight", "20", "--replay-weight", "0", "--lr", "0.003", "--draws", str(20 * BATCH))
    assert main(command(tmp_path / "run", *more)) == 0
    distances = [logged["train/embedding"] / 20 for logged in seen]
    assert np.mean(distances[-5:]) < 0.5 * distances[0]


def test_pictures_are_named_in_every_language(command, tmp_path, monkeypatch):
    read = []
    embed = _train.embed_texts
    monkeypatch.setattr(_train, "embed_texts", lambda model, texts: read.extend(texts) or embed(model, texts))
    seen = []
    logits = _module.TowerModule.logits

    def record(self, images, names, index):
        seen.extend(i for i, own in enumerate(self.names) if names.data_ptr() == own.data_ptr())
        return logits(self, images, names, index)

    monkeypatch.setattr(_module.TowerModule, "logits", record)
    assert main(command(tmp_path / "run")) == 0
    assert {"a photo of a green.", "mushroom", "蘑菇", "Pilz", "a photo of a champignon.", "キノコ", "青蛙"} <= set(
        read
    )
    assert seen[0] == 0
    assert len(set(seen)) == 6  # a prompt for each step


def test_a_run_may_go_on_at_another_side(command, tmp_path):
    assert main(command(tmp_path / "small", "--image-size", "48")) == 0
    clip = load_clip(tmp_path / "small" / "clip")
    assert clip.image_size_px == 48
    assert (
        json.loads((tmp_path / "small/clip/open_clip_config.json").read_text("utf-8"))["preprocess_cfg"]["size"] == 48
    )
    assert clip.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, clip.embed_dim)
    assert load_clip(tmp_path / "model-0").image_size_px == 32


def test_a_tower_of_one_side_is_refused(command, tmp_path, capsys):
    save_clip(tiny_clip("resnet", 0), tmp_path / "model-0")
    assert main(command(tmp_path / "small", "--image-size", "48")) == 1
    assert "a ModifiedResNet takes pictures of 32 px only" in capsys.readouterr().err


def test_what_was_taught_is_added_to_what_the_model_knew(command, tmp_path):
    (tmp_path / "model-0" / "taught_names.txt").write_text("zebra\ngreen\n", "utf-8")
    assert main(command(tmp_path / "run")) == 0
    cifar = prompts.label_sets()["cifar10"]
    taught = read_taught_names(tmp_path / "run" / "clip")
    assert taught is not None
    assert taught[:2] == ("zebra", "green")
    assert set(taught[2:]) == {"red", "blue sky", "mushroom", *cifar}
    assert len(set(taught)) == len(taught)


def test_pictures_that_were_kept_off_are_written_with_their_labels(command, folders, tmp_path, monkeypatch):
    drawn: list[int] = []
    draw = DrawDataset.draw

    def record(self, number):
        own = draw(self, number)
        drawn.append(own.index)
        return own

    monkeypatch.setattr(DrawDataset, "draw", record)
    assert main(command(tmp_path / "run", "--draws", str(20 * BATCH))) == 0
    pool = pool_sources([read_pairs(folder) for folder in folders], hold_out=False)
    trained = {pool.square(index).tobytes() for index in drawn}
    for number, folder in enumerate(folders):
        kept = read_pairs(tmp_path / "run" / "kept_off" / f"{number}-{folder.name}.csv")
        assert len(kept) > 0
        own = {pool.square(i).tobytes(): pool.names[pool.name[i]] for i in np.flatnonzero(pool.source == number)}
        for row in range(len(kept)):
            square = np.asarray(kept.image(row)).tobytes()
            assert own[square] == kept.phrases[kept.texts[row][0]]
            assert square not in trained


def test_a_source_named_twice_keeps_the_same_pictures_off_twice_and_is_judged_once(
    command, folders, tmp_path, monkeypatch
):
    drawn: list[tuple[int, int]] = []
    draw = DrawDataset.draw

    def record(self, number):
        own = draw(self, number)
        drawn.append((int(self.pool.source[own.index]), int(self.pool.row[own.index])))
        return own

    monkeypatch.setattr(DrawDataset, "draw", record)
    first, second = folders
    more = ("--draws", str(20 * BATCH), "--data", str(first), str(first), str(second))
    assert main(command(tmp_path / "run", *more)) == 0
    folder = tmp_path / "run" / "kept_off"
    assert sorted(table.name for table in folder.glob("*.csv")) == ["0-first.csv", "2-second.csv"]
    kept_off = {int(picture.stem) for picture in (folder / "0-first").iterdir()}
    shown = [{row for source, row in drawn if source == number} for number in (0, 1)]
    assert all(rows and not rows & kept_off for rows in shown)


def test_the_same_pictures_are_kept_off_whatever_the_seed(command, tmp_path):
    """A run that goes on from another's weights is not judged on what that one saw."""
    kept = []
    for seed in ("0", "5"):
        assert main(command(tmp_path / seed, "--seed", seed)) == 0
        folder = tmp_path / seed / "kept_off"
        kept.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
    assert kept[0]
    assert kept[0] == kept[1]


def test_names_that_only_other_sources_have_are_no_choice(command, folders, tmp_path, monkeypatch):
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    logits = _module.TowerModule.logits

    def record(self, images, names, index):
        result = logits(self, images, names, index)
        seen.append((result, torch.from_numpy(self.pool.is_choice[self.pool.source[index.numpy()]])))
        return result

    monkeypatch.setattr(_module.TowerModule, "logits", record)
    assert main(command(tmp_path / "run")) == 0
    assert all(torch.equal(result.isfinite(), is_choice) for result, is_choice in seen)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--batch-size", "40"], "are fewer than one batch takes (40)"),
        (["--draws", "2"], "2 draws are fewer than one batch takes (4)"),
        (["--small-share", "0.9"], "small_share and damaged_share are parts of one whole"),
        (["--lr", "nan"], "nan"),
    ],
)
def test_settings_that_fit_nothing_are_refused(command, tmp_path, capsys, more, said):
    try:
        code = main(command(tmp_path / "run", *more))
    except SystemExit as refused:
        code = refused.code
    assert code in {1, 2}
    assert said in capsys.readouterr().err


def test_captions_are_refused(command, folders, tmp_path, capsys):
    image = next((folders[0] / "red").iterdir())
    table = tmp_path / "captions.csv"
    table.write_text(f"image,caption\n{image},a red square\n{image},all red\n")
    assert main([*command(tmp_path / "run"), "--data", str(table)]) == 1
    assert "captions has captions: an image tower is trained on pictures with class labels" in capsys.readouterr().err


def test_a_run_is_resumed_with_equal_settings_only(command, tmp_path, capsys):
    assert main(command(tmp_path / "run")) == 0
    assert main(command(tmp_path / "run", "--resume", "--lr", "0.5")) == 1
    assert "lr was 0.0003 and is now 0.5" in capsys.readouterr().err
    config = json.loads((tmp_path / "run" / "clip" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["timm_model_name"] == "tf_efficientnet_lite0"
