"""The comparison of CLIP with and without LIIF: its arithmetic, its words, and whole runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipsr_training._cli.evaluate import main as eval_main
from clipsr_training.clip._recipes import RECIPES
from clipsr_training.data import read_pairs
from clipsr_training.experiment._design import ARMS, CELLS, ExperimentDesign, draw
from clipsr_training.experiment._report import ExperimentReport, plot_accuracy
from clipsr_training.experiment._run import ExperimentResult
from tests.training.made_images import class_folders

LIIF_WEIGHTS = Path("checkpoints/liif-fast/liif.safetensors")


def make_design(folder: Path, *, per_class: int = 20) -> ExperimentDesign:
    source = read_pairs(class_folders(folder, per_class=per_class))
    return ExperimentDesign(
        start="random weights",
        start_digest="",
        make_checkpoint=lambda _: pytest.fail("nothing is trained here"),
        recipe=RECIPES["scratch"],
        train=source,
        test=source,
        liif=LIIF_WEIGHTS,
        n_seeds=3,
    )


def make_report(folder: Path, rates: dict[tuple[str, str], float], *, n: int = 1000) -> ExperimentReport:
    """A report on made-up answers: the first so many images of each cell are right, in all of three seeds."""
    design = make_design(folder)
    rows = np.arange(n)
    texts = [(int(i % 3),) for i in rows]
    files = design.test.encoded
    design = replace(design, test=replace(design.test, texts=texts, encoded=lambda index: files(index % 60)))
    correct = {cell: np.tile(rows % 100 < 100 * rates.get(cell, 0.5), (3, 1)) for cell in CELLS}
    return ExperimentReport(design=design, result=ExperimentResult(correct=correct, seconds=60), command="command")


def test_drawn_images_are_balanced_fixed_and_their_own(tmp_path):
    source = read_pairs(class_folders(tmp_path / "images", per_class=20))
    drawn = draw(source, 30)
    assert [own[0] for own in drawn.texts] == [0] * 10 + [1] * 10 + [2] * 10
    assert drawn.digest == draw(source, 30).digest != draw(source, 30, seed=1).digest
    colours = [np.asarray(drawn.image(i)).mean(axis=(0, 1)).argmax() for i in range(30)]
    assert colours == [2] * 10 + [1] * 10 + [0] * 10  # blue_sky, green, red
    with pytest.raises(ValueError, match="can't be shared evenly by 3 classes"):
        draw(source, 31)
    with pytest.raises(ValueError, match="21 images of each class are wanted, but one has only 20"):
        draw(source, 63)


def test_renderings_differ_in_training_and_at_test_alone(tmp_path):
    design = make_design(tmp_path)
    assert [design.make_recipe(arm).rendering.scale for arm in ARMS] == [None, 2.0, 2.0]
    assert design.make_recipe("liif").rendering.upscaler == LIIF_WEIGHTS
    assert {replace(design.make_recipe(arm), rendering=design.recipe.rendering) for arm in ARMS} == {design.recipe}
    assert design.n_trained == 60 - 3 * 10


def test_classes_must_agree(tmp_path):
    design = make_design(tmp_path / "a")
    other = read_pairs(class_folders(tmp_path / "b", ["cat", "dog", "frog"]))
    with pytest.raises(ValueError, match="have different classes"):
        replace(design, test=other)


def test_a_gain_in_every_seed_is_found_and_sized(tmp_path):
    """Two points more right on the same images: 20 of 1,000 that only the treatment gets right."""
    report = make_report(tmp_path, {("liif", "none"): 0.52, ("liif", "liif"): 0.45})
    first, both, bicubic, beside_bicubic, at_test = report.contrasts(np.arange(1000))
    assert first.gain.value == pytest.approx(0.02)
    assert 0.01 < first.gain.low < 0.02 < first.gain.high < 0.03
    assert [(test.only_a, test.only_b) for test in first.tests] == [(20, 0)] * 3
    assert both.gain.value == beside_bicubic.gain.value == pytest.approx(-0.05)
    assert bicubic.gain.value == at_test.gain.value == 0
    assert not bicubic.is_decided
    text = report.conclusion()
    assert text.startswith("Training on images enlarged by LIIF, tested on plain ones, raises accuracy: +2.00 points")
    assert "LIIF in training and at test lowers accuracy: -5.00 points" in text
    assert "The published gain of +1.5 points lies within that interval." in text


def test_no_gain_is_called_none(tmp_path):
    report = make_report(tmp_path, {})
    assert report.conclusion().count("No effect of") == 3
    assert "The published gain of +1.5 points lies outside that interval." in report.conclusion()  # 0 to 0
    assert "finds a difference for 0 of 3 seeds" in report.single_seeds()


def test_seeds_that_disagree_widen_the_interval(tmp_path):
    """Ten points up, none, ten points down: images alone would find the first and the last significant."""
    report = make_report(tmp_path, {})
    right = report.result.correct["liif", "none"].copy()
    right[0], right[2] = np.arange(1000) % 100 < 60, np.arange(1000) % 100 < 40
    result = replace(report.result, correct={**report.result.correct, ("liif", "none"): right})
    contrast = replace(report, result=result).contrasts(np.arange(1000))[0]
    assert [test.p_value < 0.001 for test in contrast.tests] == [True, False, True]
    assert contrast.gain.low < -0.05 < 0.05 < contrast.gain.high
    assert not contrast.is_decided


def test_the_report_has_the_published_number_of_images_as_well(tmp_path):
    report = make_report(tmp_path, {("liif", "none"): 0.6}, n=2100)
    sets = report.test_sets()
    assert {name: len(rows) for name, rows in sets.items()} == {"all 2,100 images": 2100, "1,998 of them": 1998}
    content = json.loads(report.json())
    assert len(content["test_sets"][0]["top1"]) == 9
    assert content["test_sets"][0]["contrasts"][0]["gain"]["value"] == pytest.approx(0.1)
    assert plot_accuracy(report, np.arange(2100)).startswith(b"\x89PNG")


def run(folder: Path, output: Path, *options: str) -> int:
    small = ["--train-images", "60", "--test-images", "30", "--batch-size", "20", "--epochs", "8", "--seeds", "1"]
    data = ["--data", str(folder), "--test", str(folder)]
    return eval_main(["experiment", *data, *small, "--output", str(output), *options])


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_alike(tmp_path, capsys, monkeypatch):
    """Three trainings on three colours; stopped in the second, resumed, then asked for another setting."""
    from clipsr_training.experiment import _run

    images, output = class_folders(tmp_path / "images", per_class=30), tmp_path / "run"
    train = _run.train_on_pairs
    calls: list[Path] = []

    def interrupt(*arguments, **options):
        calls.append(arguments[3].output)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr(_run, "train_on_pairs", interrupt)
    assert run(images, output) == 130
    announced = capsys.readouterr().err
    assert "3 trainings of 60 images (8 epochs, batches of 20" in announced
    assert "goes on with --resume" in announced
    assert run(images, output) == 1
    assert "go on with --resume" in capsys.readouterr().err
    assert run(images, output, "--resume") == 0
    assert [path.name for path in calls] == ["none-0", "bicubic-0", "bicubic-0", "liif-0"]

    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    top1 = {(e["train"], e["test"]): e["value"] for e in report["test_sets"][0]["top1"]}
    assert len(top1) == 9
    assert np.mean(list(top1.values())) > 0.5  # three colours, chance is a third
    page = (output / "report.md").read_text(encoding="utf-8")
    assert page in capsys.readouterr().out
    assert str(tmp_path) not in page
    assert (output / "accuracy.png").read_bytes().startswith(b"\x89PNG")

    capsys.readouterr()
    assert run(images, output, "--resume", "--epochs", "9") == 1
    assert "holds another measurement: recipe.epochs was 8 and is now 9" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_before_training(tmp_path, capsys):
    images = class_folders(tmp_path / "images", per_class=5)
    assert run(images, tmp_path / "run") == 1
    assert "images of each class are wanted" in capsys.readouterr().err
    assert run(images, tmp_path / "run", "--weights", "openai") == 1
    assert "--weights needs --model" in capsys.readouterr().err
    assert run(images, tmp_path / "run", "--model", str(tmp_path / "nowhere")) == 1
    assert "give --weights as well" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quick_experiment_runs_on_cifar(tmp_path, data_dir):
    """What `make experiment SCALE=quick` does: some six minutes on two busy cores, fifteen at most."""
    cifar = data_dir / "cifar10"
    data = ["--data", str(cifar / "train.parquet"), "--test", str(cifar / "test.parquet")]
    assert eval_main(["experiment", "--scale", "quick", *data, "--output", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert (report["train"]["n"], report["n_seeds"]) == (2000, 3)
    assert {e["train"] for e in report["test_sets"][0]["top1"]} == set(ARMS)
    top1 = [e["value"] for e in report["test_sets"][0]["top1"]]
    assert min(top1) > 0.12  # ten classes, hardly trained: above chance by two standard errors
