"""The report on small pictures: its figures on made answers, and the command on a handful of images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from benchmarks.accuracy.small_pictures import find_runs, main
from benchmarks.accuracy.small_pictures_tables import (
    AsServed,
    Comparison,
    Row,
    holm,
    p_value,
    report_json,
    report_markdown,
)
from benchmarks.tiny_imagenet import _CIFAR_NAMES

from clipsr_training import prompts
from clipsr_training.evaluation._low_resolution import LR12_REDUCTIONS, LR12_SIZES_PX, ReducedCondition
from clipsr_training.evaluation._statistics import mean_over_seeds
from tests.training.made_images import png

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = json.loads((ROOT / "benchmarks/accuracy/small_pictures.json").read_text("utf-8"))
N = 400
CELLS = [(size, reduction) for size in (*LR12_SIZES_PX, 64) for reduction in LR12_REDUCTIONS]


def answers(accuracy: float, seed: int, *renderings: str) -> dict[ReducedCondition, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {ReducedCondition(*cell, r): rng.random(N) < accuracy for cell in CELLS for r in renderings}


@pytest.fixture
def comparison() -> Comparison:
    before = {**answers(0.3, 0, "bicubic"), **answers(0.2, 1, "liif")}
    # LIIF is the better in one cell.
    before[ReducedCondition(*CELLS[0], "liif")] = np.arange(N) < 0.5 * N
    adapted = {"own": {s: answers(0.45, 10 + s, "liif") for s in (1, 2, 3)}, "foreign": {1: answers(0.3, 20, "liif")}}
    return Comparison(before=before, adapted=adapted, n_images=N)


def test_gains_are_over_the_better_arm_of_each_cell(comparison):
    means = [
        max(comparison.before[ReducedCondition(*cell, r)].mean() for r in ("bicubic", "liif")) for cell in CELLS[:12]
    ]
    assert comparison.better_before().mean() == pytest.approx(np.mean(means))
    gains = comparison.gains("own")
    assert gains.shape == (3, N)
    own = [np.mean([comparison.adapted["own"][s][ReducedCondition(*c, "liif")] for c in CELLS[:12]]) for s in (1, 2, 3)]
    assert gains.mean(axis=1) == pytest.approx(np.array(own) - np.mean(means))
    assert comparison.worst_cell("own")[1] == min(float(comparison.gain_at("own", *c).mean()) for c in CELLS[:12])


def test_p_is_where_the_interval_begins_to_hold_zero(comparison):
    values = comparison.gains("own") - comparison.gains("own").mean() + 0.01
    p = p_value(values)
    assert 0 < p < 1
    just_out, just_in = (mean_over_seeds(values, confidence=1 - p * factor) for factor in (1.001, 0.999))
    assert just_out.low > 0 >= just_in.low
    assert p_value(values - values.mean()) == pytest.approx(1)


def test_p_values_are_adjusted_as_holm_does():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == pytest.approx({"b": 1.0, "a": 1.0})


def test_the_page_says_what_was_met_and_what_was_missed(comparison):
    rng = np.random.default_rng(0)

    def row(title: str, auto: float) -> Row:
        correct = {
            "liif": rng.random(N) < 0.6,
            "bicubic": np.arange(N) < 0.5 * N,
            "auto": np.arange(N) < round(auto * N),
        }
        return Row(title, correct)

    served = AsServed(model={"model": "small"}, rows=(row("one", 0.49), row("two", 0.56)))
    page = report_markdown(comparison, served, CONFIGURATION, ["A note."])
    lines = page.splitlines()
    (own,) = (line for line in lines if line.startswith("| own: LR-12 over"))
    (foreign,) = (line for line in lines if line.startswith("| foreign: LR-12 over"))
    assert own.endswith("| met |")
    assert foreign.endswith("| **missed** |")
    assert "| one | " in page
    assert "Worst row -1.00 (promised −0.5: **missed**), mean +2.50 (promised +2: met)." in page
    assert len([line for line in lines if " px, " in line and line.startswith(("| 8 px", "| 64 px"))]) == 6
    written = json.loads(report_json(comparison, served, []))
    assert written["gain"]["own"]["p"] < 0.01
    assert written["served"]["rows"][0]["auto"] == pytest.approx(0.49)


def test_names_of_cifar_are_its_own():
    assert set(_CIFAR_NAMES) <= set(prompts.label_sets()["cifar"])
    wnids = [wnid for own in _CIFAR_NAMES.values() for wnid in own]
    assert (len(wnids), len(set(wnids)), len(_CIFAR_NAMES)) == (51, 51, 29)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A few 64-px images of two classes, one finished arm, and CIFAR-10 of the same."""
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png((200, 40, 30) if i % 2 else (30, 60, 200), (64, 64), seed=i))
    for name in ("val.csv", "cifar_names.csv"):
        with (tmp_path / name).open("w", newline="") as file:
            rows = [(f"{i}.png", "rose" if i % 2 else "sky") for i in range(4)]
            csv.writer(file).writerows([("image", "label"), *rows])
    run = tmp_path / "runs" / "r2-own-s1"
    run.mkdir(parents=True)
    shutil.copy(ROOT / "checkpoints/liif-fast/liif.safetensors", run)
    return tmp_path


def test_the_command_measures_and_resumes(folder, capsys):
    bundled = ROOT / "checkpoints/clipsr-small"
    options = ["--runs", folder / "runs", "--stand-in", bundled, "--tiny", folder, "--output", folder / "report"]
    served = ["--cifar10", folder / "val.csv", "--small-upscaler", ROOT / "checkpoints/liif-fast/liif.safetensors"]
    (folder / "repository").mkdir()
    shutil.copy(ROOT / "model_repository/manifest.json", folder / "repository")
    words = [str(w) for w in (*options, *served, "--repository", folder / "repository")]
    assert main(words) == 0
    page = (folder / "report/report.md").read_text("utf-8")
    assert page == capsys.readouterr().out.removesuffix("\n")
    assert "Not finished, and left out: own, seed 2; own, seed 3; foreign, seed 1;" in page
    assert "| R2, own, seed 1 |" in page
    assert "| own: LR-12 over the better before | +5 |" in page
    assert len([line for line in page.splitlines() if line.startswith(("| CIFAR-10", "| Tiny-ImageNet"))]) == 7
    before = {path: path.stat().st_mtime_ns for path in folder.glob("report/*/cells.jsonl")}
    assert len(before) == 9
    assert main([*words, "--resume"]) == 0
    assert (folder / "report/report.md").read_text("utf-8") == page


def test_without_a_finished_arm_there_is_no_report(folder, capsys):
    found, missing = find_runs(folder / "runs", CONFIGURATION)
    assert list(found) == ["own"]
    assert len(missing) == 8
    options = ["--runs", folder, "--stand-in", folder, "--tiny", folder, "--output", folder / "report"]
    assert main([str(option) for option in options]) == 1
    assert "no finished arm in" in capsys.readouterr().err
