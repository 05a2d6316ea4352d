"""Edits: bounded parameters that can draw nothing, found by example, and applied again from their recipe."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Generator

from clipsr_training._cli.train import main
from clipsr_training.clip import load_clip
from clipsr_training.data import read_image
from clipsr_training.editing._edit import EditOptions, change_of_images, change_of_texts, edit
from clipsr_training.editing._recipe import BOUNDS, TONES, Recipe, radii, render

EXTREMES = [Recipe(values={name: sign * bound}) for name, bound in BOUNDS.items() for sign in (-1, 1)]


@pytest.fixture(scope="module")
def clip(repo_root):
    return load_clip(repo_root / "checkpoints/clipsr-small")


def made_photo(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth scene of random colours in middle tones, with a few hard edges."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(20, 200, (4, 5, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    photo = np.array(smooth)
    for _ in range(6):
        top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
        photo[top : top + rng.integers(8, 40), left : left + rng.integers(8, 60)] = rng.integers(20, 200, 3)
    return photo


def random_recipe(seed: int) -> Recipe:
    parts = np.random.default_rng(seed).uniform(-1, 1, len(BOUNDS))
    return Recipe(values={name: float(part * bound) for part, (name, bound) in zip(parts, BOUNDS.items(), strict=True)})


def to_linear(values: np.ndarray) -> np.ndarray:
    """By the definition of sRGB (IEC 61966-2-1)."""
    part = values / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def test_there_are_few_parameters_and_zero_changes_nothing():
    assert len(BOUNDS) <= 30
    photo = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(Recipe().apply(photo), photo)
    assert np.array_equal(Recipe(values=dict.fromkeys(BOUNDS, 0.0)).apply(photo), photo)


def test_exposure_and_temperature_are_stops_of_linear_light():
    grey = np.full((8, 8, 3), 90, np.uint8)
    brighter = to_linear(Recipe(values={"exposure": 1.0}).apply(grey)[4, 4])
    np.testing.assert_allclose(brighter / to_linear(grey[4, 4]), 2, rtol=0.01)
    red, green, blue = to_linear(Recipe(values={"temperature": 0.5}).apply(grey)[4, 4])
    assert red / blue == pytest.approx(2**0.5, rel=0.02)
    assert green == pytest.approx(to_linear(grey[4, 4])[1], rel=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_no_recipe_draws_a_pattern(seed):
    values = {name: value for name, value in random_recipe(seed).values.items() if name != "vignette"}
    edited = Recipe(values=values).apply(np.full((30, 40, 3), (60, 120, 180), np.uint8))
    assert len(np.unique(edited.reshape(-1, 3), axis=0)) == 1


def test_no_tone_curve_falls():
    ramp = torch.linspace(0, 1, 256).expand(3, 1, -1)
    for signs in itertools.product((-1, 1), repeat=len(TONES)):
        values = {name: torch.tensor(sign * BOUNDS[name]) for name, sign in zip(TONES, signs, strict=True)}
        for contrast in (-1.0, 1.0):
            curve = render(ramp, {**values, "contrast": torch.tensor(contrast)}, torch.zeros(1, 256), 256)[0, 0]
            assert (curve.diff() >= -1e-6).all()


def test_every_parameter_has_a_gradient_where_nothing_is_changed():
    picture = torch.from_numpy(made_photo(0)).permute(2, 0, 1) / 255
    values = {name: torch.zeros((), requires_grad=True) for name in BOUNDS}
    weights = torch.rand(3, 120, 160, generator=Generator().manual_seed(0))
    (render(picture, values, radii(120, 160), 120) * weights).sum().backward()
    for name, value in values.items():
        assert value.grad is not None, name
        assert torch.isfinite(value.grad), name
        assert abs(float(value.grad)) > 1e-3, name


@pytest.mark.parametrize("recipe", [*EXTREMES, random_recipe(1)], ids=lambda recipe: str(recipe.values)[:40])
def test_strips_are_one_picture(recipe):
    photo = made_photo(3, 700, 90)
    whole = torch.from_numpy(photo).permute(2, 0, 1) / 255
    values = {name: torch.tensor(value) for name, value in recipe.values.items()}
    expected = (render(whole, values, radii(700, 90), 90) * 255).permute(1, 2, 0).numpy()
    assert np.abs(recipe.apply(photo) - expected).max() < 0.51


def test_a_recipe_looks_alike_at_every_resolution():
    large = made_photo(4, 600, 800)
    small = np.array(Image.fromarray(large).resize((160, 120), Image.Resampling.BOX))
    recipe = Recipe(values={"exposure": 0.4, "vignette": 1.0, "clarity": 0.5, "sharpness": -0.8})
    reduced = np.array(Image.fromarray(recipe.apply(large)).resize((160, 120), Image.Resampling.BOX), float)
    assert np.abs(reduced - recipe.apply(small)).mean() < 2


CHANGES = [{"exposure": 0.7, "temperature": 0.4}, {"exposure": -0.7, "temperature": -0.4}]


# Of a real photo both changes are recovered below.
@pytest.mark.parametrize("true", [CHANGES[0], pytest.param(CHANGES[1], marks=pytest.mark.slow)])
def test_a_known_change_is_recovered_from_two_pictures(clip, true):
    # Larger than what the search looks at.
    assert_recovers(clip, made_photo(0, 400, 500), true)


@pytest.mark.parametrize("true", CHANGES)
@pytest.mark.parametrize("name", ["000000125870", "000000000790"])  # the first has what the change clips
def test_a_known_change_of_a_real_photo_is_recovered(clip, data_dir, true, name):
    assert_recovers(clip, read_image(data_dir / f"photos/{name}.jpg"), true)


def assert_recovers(clip, photo, true):
    """Within 20 % of every value, with all parameters free to move, and nothing found that was not changed."""
    before, after = Image.fromarray(photo), Image.fromarray(Recipe(values=true).apply(photo))
    options = EditOptions()
    edits = list(edit(clip, before, change_of_images(clip, before, after, options), options))
    found = min(edits, key=lambda step: step.loss).recipe.values
    for name, value in true.items():
        assert found[name] == pytest.approx(value, rel=0.2), found
    for name in set(BOUNDS) - set(true):
        assert abs(found[name]) < 0.2 * BOUNDS[name], found


def test_only_chosen_parameters_move_and_a_seed_repeats_an_edit(clip):
    photo = Image.fromarray(made_photo(5))
    options = EditOptions(parameters=("temperature", "tint"), n_steps=4, n_views=2)
    wanted = change_of_texts(clip, "a photo of a ship.", "a photo of a frog.", options)
    first, again = (list(edit(clip, photo, wanted, options)) for _ in range(2))
    assert first == again
    assert first[-1].loss < first[0].loss
    moved = {name for name, value in first[-1].recipe.to_mapping().items() if value}
    assert moved == {"temperature", "tint"}


def test_a_search_ends_where_nothing_has_an_effect(clip):
    black = Image.fromarray(np.zeros((80, 90, 3), np.uint8))
    options = EditOptions(parameters=("exposure",), simplicity=0)
    (found,) = edit(clip, black, change_of_texts(clip, "a photo of a ship.", "a photo of a frog.", options), options)
    assert found.recipe.values == {"exposure": 0}


def test_texts_change_what_can_be_seen(clip, data_dir):
    photo = read_image(data_dir / "photos/000000125870.jpg")
    options = EditOptions()
    wanted = change_of_texts(clip, "a photo of a ship.", "a photo of a frog.", options)
    found = min(edit(clip, Image.fromarray(photo), wanted, options), key=lambda step: step.loss)
    assert np.abs(found.recipe.apply(photo).astype(int) - photo).mean() > 5


def test_texts_that_are_the_same_are_no_direction(clip):
    with pytest.raises(ValueError, match="no direction"):
        change_of_texts(clip, "a cat", "a cat", EditOptions())


class TestCommand:
    """`clipsr-train edit`."""

    @pytest.fixture
    def photo(self, tmp_path) -> Path:
        path = tmp_path / "photo.png"
        Image.fromarray(made_photo(6)).save(path)
        return path

    @pytest.fixture
    def quick(self, repo_root) -> list[str]:
        return ["--model", str(repo_root / "checkpoints/clipsr-small"), "--steps", "3", "--views", "2"]

    def test_recipe_gives_the_same_photo_again_and_another(self, photo, quick, tmp_path, capsys):
        output = tmp_path / "made" / "frog.png"
        texts = ["--from", "a photo of a ship.", "--to", "a photo of a frog."]
        assert main(["edit", str(photo), *texts, "--output", str(output), *quick]) == 0
        said = capsys.readouterr()
        assert said.out == f"{output}\n"
        assert "for texts name an OpenCLIP model" in said.err
        recipe = output.with_suffix(".json")
        report = json.loads(recipe.read_text())
        assert list(report["parameters"]) == list(BOUNDS)
        assert any(report["parameters"].values())
        assert (report["from"], report["to"]) == (texts[1], texts[3])
        assert not np.array_equal(read_image(output), read_image(photo))
        again = tmp_path / "again.png"
        assert main(["edit", str(photo), "--recipe", str(recipe), "--output", str(again), "--model", "nowhere"]) == 0
        # The recipe holds four digits.
        assert np.abs(read_image(again).astype(int) - read_image(output)).max() <= 1
        assert capsys.readouterr().err == ""
        larger = tmp_path / "larger.jpg"
        Image.fromarray(made_photo(7, 300, 200)).save(larger)
        assert main(["edit", str(larger), "--recipe", str(recipe), "--output", str(tmp_path / "larger.webp")]) == 0
        expected = Recipe(values=report["parameters"]).apply(read_image(larger))
        assert np.array_equal(read_image(tmp_path / "larger.webp"), expected)

    def test_two_pictures_lead(self, photo, quick, tmp_path):
        warm = tmp_path / "warm.png"
        Image.fromarray(Recipe(values={"temperature": 0.8}).apply(read_image(photo))).save(warm)
        output = tmp_path / "edited.png"
        images = ["--from-image", str(photo), "--to-image", str(warm)]
        assert main(["edit", str(photo), *images, "--output", str(output), *quick, "--parameters", "temperature"]) == 0
        red, _, blue = (read_image(output).astype(int) - read_image(photo)).mean((0, 1))
        assert red > 3 > -3 > blue

    def test_photos_are_upright_and_keep_their_colour_profile(self, tmp_path):
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        exif = Image.Exif()
        exif[0x0112] = 6  # turn clockwise
        turned = tmp_path / "turned.jpg"
        Image.fromarray(made_photo(8)).save(turned, exif=exif, icc_profile=profile, quality=95)
        recipe = tmp_path / "recipe.json"
        recipe.write_text('{"parameters": {"exposure": 0.5}}')
        for ending in ("jpg", "png", "webp", "tiff"):
            output = tmp_path / f"edited.{ending}"
            assert main(["edit", str(turned), "--recipe", str(recipe), "--output", str(output)]) == 0
            with Image.open(output) as edited:
                assert edited.size == (120, 160)
                assert 0x0112 not in edited.getexif() or edited.getexif()[0x0112] == 1
                assert edited.info["icc_profile"] == profile

    def test_an_interrupted_edit_keeps_the_best_so_far(self, forks, photo, repo_root, tmp_path):
        script = f"""
import os, signal
from clipsr_training._cli import edit, train
signal.signal(signal.SIGINT, signal.default_int_handler)
plain = edit.edit
def interrupted(*arguments):
    for found in plain(*arguments):
        yield found
        os.kill(os.getpid(), signal.SIGINT)
edit.edit = interrupted
raise SystemExit(train.main(["edit", {str(photo)!r}, "--from", "a ship", "--to", "a frog", "--views", "2",
    "--model", {str(repo_root / "checkpoints/clipsr-small")!r}, "--output", {str(tmp_path / "x.png")!r}]))
"""
        ended = forks.run(script)
        assert ended.returncode == 130
        assert ended.stderr.endswith(f"stopped; {tmp_path / 'x.png'} is the best edit so far, of step 1\n")
        assert json.loads((tmp_path / "x.json").read_text())["step"] == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "give one direction"),
            (["--from", "a"], "give one direction"),
            (["--from", "a", "--to", "b", "--recipe", "r.json"], "give one direction"),
            (["--from", " ", "--to", "b"], "need a text each"),
            (["--from", "a", "--to", "b", "--output", "x.gif"], "x.gif must end in .png, .jpg"),
            (["--from", "a", "--to", "b", "--output", "photo.png"], "the photo itself"),
            (["--from", "a", "--to", "b", "--model", "nowhere"], "there is no folder nowhere"),
            (["--from", "a", "--to", "b", "--strength", "0"], "strength must be above 0"),
            (["--from", "a", "--to", "b", "--parameters", "exposure,zoom"], "parameters must be some of exposure"),
            (["--from-image", "photo.png", "--to-image", "nowhere.png"], "no image at nowhere.png"),
            (["--recipe", "nowhere.json"], "no recipe at nowhere.json"),
        ],
    )
    def test_bad_input_is_one_sentence(self, arguments, message, photo, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        before = photo.read_bytes()
        assert main(["edit", "photo.png", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
        assert photo.read_bytes() == before
        assert list(tmp_path.iterdir()) == [photo]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("nothing", "it is no JSON"),
            ("[]", 'no object "parameters"'),
            ('{"parameters": {"zoom": 1}}', "no parameter 'zoom'"),
            ('{"parameters": {"exposure": 9}}', "exposure must be from -2.0 to 2.0"),
            ('{"parameters": {"exposure": NaN}}', "exposure must be from -2.0 to 2.0"),
            ('{"parameters": {"exposure": "1"}}', "exposure must be from -2.0 to 2.0"),
        ],
    )
    def test_a_bad_recipe_is_named(self, content, message, photo, tmp_path, capsys):
        recipe = tmp_path / "recipe.json"
        recipe.write_text(content)
        assert main(["edit", str(photo), "--recipe", str(recipe), "--output", str(tmp_path / "x.png")]) == 1
        error = capsys.readouterr().err
        assert f"{recipe} can't be read as a recipe" in error
        assert message in error
        assert not (tmp_path / "x.png").exists()
