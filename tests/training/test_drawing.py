"""Drawings: strokes that a model agrees with, the same in every program that shows them, and the same again."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from clipsr_training._cli.checkpoint import threads_for
from clipsr_training._cli.train import main
from clipsr_training.clip import load_clip
from clipsr_training.clip._embeddings import embed_pictures, embed_texts
from clipsr_training.drawing._draw import DrawOptions, draw
from clipsr_training.drawing._output import render, to_address, to_png
from clipsr_training.drawing._strokes import Strokes
from clipsr_training.drawing._views import draw_views
from tests.browser import chromium
from tests.conftest import REPO_ROOT

TRUCK = "a photo of a truck."
MODEL = ["--model", str(REPO_ROOT / "checkpoints/clipsr-small")]


@pytest.fixture(scope="module")
def clip(repo_root):
    return load_clip(repo_root / "checkpoints/clipsr-small")


def one_stroke(**changes) -> Strokes:
    stroke = Strokes(
        points=torch.tensor([[[0.1, 0.5], [0.3, 0.5], [0.6, 0.5], [0.9, 0.5]]]),
        widths=torch.tensor([0.2]),
        colors=torch.tensor([[1.0, 0.0, 0.0, 1.0]]),
    )
    return stroke.map(changes)


def test_a_straight_stroke_is_a_band_with_round_ends():
    picture = one_stroke().render(100)
    red, white = torch.tensor([1.0, 0.0, 0.0]), torch.ones(3)
    assert torch.equal(picture[:, 50, 50], red)
    assert torch.equal(picture[:, 42, 50], red)
    assert torch.equal(picture[:, 38, 50], white)
    assert torch.equal(picture[:, 50, 2], red), "the end is round, half a width beyond its point"
    assert torch.equal(picture[:, 42, 2], white)


def test_opacity_shows_what_is_below():
    picture = one_stroke(colors=torch.tensor([[0.0, 0.0, 0.0, 0.25]])).render(10)
    torch.testing.assert_close(picture[:, 5, 5], torch.full((3,), 0.75))
    below = torch.zeros(3, 10, 10)
    assert torch.equal(one_stroke().render(10, below)[:, 0, 0], torch.zeros(3))


def test_every_parameter_has_a_gradient():
    values = {name: value.clone().requires_grad_() for name, value in vars(one_stroke()).items()}
    # From a corner: a straight line's inner points move along it without any effect.
    one_stroke(**values).render(32)[:, 14:, 20:].sum().backward()
    for name, value in values.items():
        assert value.grad is not None, name
        assert torch.isfinite(value.grad).all(), name
        assert value.grad.abs().sum() > 0, name


def test_views_are_white_outside_and_show_the_middle():
    picture = torch.zeros(3, 64, 64)
    views = draw_views(picture, 32, 32, Generator().manual_seed(3))
    assert views.shape == (32, 3, 32, 32)
    assert views[:, :, 16, 16].abs().max() < 1e-5
    assert torch.equal(draw_views(torch.ones(3, 64, 64), 4, 32, Generator().manual_seed(3)), torch.ones(4, 3, 32, 32))
    assert len({round(float(view.mean()), 4) for view in views}) > 20, "each from another place"


def test_a_drawing_comes_to_look_like_its_text_to_the_model(clip):
    drawings = list(draw(clip, DrawOptions(text=TRUCK, n_strokes=12, n_steps=25, n_views=2)))
    assert [drawing.step for drawing in drawings] == [10, 20, 25]
    assert drawings[-1].score > drawings[0].score
    start = Strokes.scattered(12, Generator().manual_seed(0))
    texts = embed_texts(clip, [TRUCK])
    with torch.no_grad():
        before, after = (
            (embed_pictures(clip, s.render(64)[None]) @ texts.T).item() for s in (start, drawings[-1].strokes)
        )
    assert after > before + 0.1


def test_what_it_must_not_be_counts(clip):
    free, bound = (
        list(draw(clip, DrawOptions(text=TRUCK, not_texts=others, not_weight=2, n_strokes=8, n_steps=15, n_views=2)))
        for others in ((), ("a photo of a automobile.",))
    )
    other = embed_texts(clip, ["a photo of a automobile."])
    with torch.no_grad():
        of_free, of_bound = (
            (embed_pictures(clip, d[-1].strokes.render(64)[None]) @ other.T).item() for d in (free, bound)
        )
    assert of_bound < of_free


def test_the_command_writes_drawing_picture_strip_and_cosines(clip, repo_root, tmp_path, capsys):
    output = tmp_path / "made" / "truck.svg"
    command = ["draw", TRUCK, "--model", str(repo_root / "checkpoints/clipsr-small"), "--strokes", "6", "--steps", "12"]
    assert main([*command, "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    assert {path.name for path in output.parent.iterdir()} == {
        "truck.svg", "truck.png", "truck-progress.png", "truck.json"
    }  # fmt: skip
    report = json.loads(output.with_suffix(".json").read_text())
    assert report["text"] == TRUCK
    assert {"cat", "truck", "bottle"} < set(report["cosines"])
    assert report["cosine"] == pytest.approx(report["cosines"]["truck"], abs=1e-4)
    assert (report["n_strokes"], report["n_steps"], report["seed"]) == (6, 12, 0)
    with Image.open(output.with_name("truck-progress.png")) as strip:
        assert strip.size == (2 * 128, 128)
    assert main([*command, "--output", str(tmp_path / "again.svg")]) == 0
    assert (tmp_path / "again.svg").read_bytes() == output.read_bytes(), "one seed, one drawing"
    assert main([*command, "--output", str(tmp_path / "other.svg"), "--seed", "1"]) == 0
    assert (tmp_path / "other.svg").read_bytes() != output.read_bytes()


def test_a_text_that_is_a_label_hides_no_cosine(repo_root, tmp_path):
    output = tmp_path / "cat.svg"
    model = str(repo_root / "checkpoints/clipsr-small")
    command = ["draw", "cat", "--model", model, "--strokes", "3", "--steps", "1", "--views", "1"]
    assert main([*command, "--output", str(output)]) == 0
    report = json.loads(output.with_suffix(".json").read_text())
    assert report["cosine"] != report["cosines"]["cat"], "one of the word, one of the word in the template"


def test_it_can_be_drawn_onto_a_picture(repo_root, tmp_path):
    photo = tmp_path / "photo.png"
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 10:50, 2] = 255  # its central square is blue
    Image.fromarray(pixels).save(photo)
    output = tmp_path / "drawn.svg"
    model = str(repo_root / "checkpoints/clipsr-small")
    command = ["draw", "cat", "--model", model, "--start", str(photo), "--strokes", "1", "--steps", "1", "--views", "1"]
    assert main([*command, "--output", str(output)]) == 0
    with Image.open(output.with_suffix(".png")) as drawn:
        assert sum(drawn.getpixel(corner) == (0, 0, 255) for corner in ((0, 0), (0, 511), (511, 0), (511, 511))) >= 3
    assert "data:image/png;base64," in output.read_text()


def test_a_small_tower_takes_one_thread_unless_told_otherwise(clip, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        with threads_for(clip):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        with threads_for(clip):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_browser_shows_the_same_picture(tmp_path):
    generator = Generator().manual_seed(5)
    strokes = Strokes.scattered(24, generator)
    strokes = strokes.map({"widths": torch.rand(24, generator=generator) * 0.1 + 1 / 224})
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((512, 512))
    for start in (None, photo):
        background = None if start is None else to_address(start)
        (tmp_path / "drawing.svg").write_text(strokes.to_svg(512, background))
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 512, "height": 512})
            page.goto((tmp_path / "drawing.svg").as_uri())
            shown = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), np.float64)
        own = np.asarray(Image.open(io.BytesIO(to_png(render(strokes, 512, start)))))
        psnr = 10 * np.log10(255**2 / np.mean((shown - own) ** 2))
        assert psnr > 30


def test_an_interrupted_drawing_keeps_the_best_so_far(forks, repo_root, tmp_path):
    """In a process of its own: a signal that came late would end the tests' process."""
    script = f"""
import os, signal
from clipsr_training._cli import draw, train
signal.signal(signal.SIGINT, signal.default_int_handler)
plain = draw.draw
def interrupted(*arguments):
    for drawing in plain(*arguments):
        yield drawing
        os.kill(os.getpid(), signal.SIGINT)
draw.draw = interrupted
raise SystemExit(train.main(["draw", "a truck", "--strokes", "4", "--steps", "40",
    "--model", {str(repo_root / "checkpoints/clipsr-small")!r}, "--output", {str(tmp_path / "x.svg")!r}]))
"""
    ended = forks.run(script)
    assert ended.returncode == 130
    assert ended.stderr.endswith(f"stopped; {tmp_path / 'x.svg'} is the best drawing so far, of step 10\n")
    assert (tmp_path / "x.svg").read_text().count("<path") == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "--output", "x.svg"], "there is no text to draw"),
        (["cat", "--output", "x.png"], "--output is x.png; name a file that ends in .svg"),
        (["cat", "--start", "nowhere.png"], "no image at nowhere.png"),
        (["cat", "--start", "text.png"], "text.png can't be read as an image"),
        (["cat", "--not", "dog", " "], "is empty"),
        (["cat", "--model", "nowhere"], "there is no folder nowhere; for a model that OpenCLIP knows by name"),
        (["cat", "--model", "folder"], "no open_clip_config.json in folder"),
        (["cat", "--output", "text.png/x.svg", *MODEL], "cannot write into text.png"),
        (["cat", "--output", "folder.svg"], "folder.svg, which is a folder"),
    ],
)
def test_bad_input_is_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no image")
    folders = [tmp_path / "folder", tmp_path / "folder.svg"]
    for folder in folders:
        folder.mkdir()
    assert main(["draw", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == [*folders, tmp_path / "text.png"]


@pytest.mark.parametrize(
    "arguments", [["--strokes", "0"], ["--steps", "-1"], ["--not-weight", "nan"], ["--seed", "-1"], ["--views", "x"]]
)
def test_numbers_out_of_bounds_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["draw", "cat", *arguments])
    assert f"argument {arguments[0]}" in capsys.readouterr().err
