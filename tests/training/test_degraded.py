"""`clipsr-eval degraded`: its report, its headline, resuming, and the contact sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clipsr_training._cli.evaluate import main
from clipsr_training.clip import load_clip
from clipsr_training.controller import ControlledClip, Controller, save_controller
from clipsr_training.data import read_image
from clipsr_training.degradation import DEGRADATIONS, KINDS
from clipsr_training.evaluation import _cells, compare_paired
from tests.training.made_images import class_folders


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, repo_root) -> None:
    """Where the default model is."""
    monkeypatch.chdir(repo_root)


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return ["degraded", "--data", str(class_folders(tmp_path / "colours")), "--output", str(tmp_path / "report")]


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text("utf-8"))


def test_the_report_holds_every_kind_and_the_mean_of_ten(options, tmp_path, capsys):
    assert main([*options, "--severities", "3"]) == 0
    output = tmp_path / "report"
    assert {path.name for path in output.iterdir()} == {"accuracy.png", "cells.jsonl", "report.json", "report.md"}
    (entry,) = report_of(output)["sets"]
    rows = [(row["kind"], row["severity"], row["route"]) for row in entry["top1"]]
    expected = [(None, None), *((kind, 3 if kind != "clean" else 1) for kind in KINDS)]
    assert rows == [(*condition, route) for condition in expected for route in ("upscaled", "native")]
    for route in ("upscaled", "native"):
        ten = [row["value"] for row in entry["top1"] if row["route"] == route and row["kind"] in DEGRADATIONS]
        assert len(ten) == 10
        headline = entry["headline"][route]
        assert headline["value"] == pytest.approx(np.mean(ten))
        assert headline["low"] <= headline["value"] <= headline["high"]
    streams = capsys.readouterr()
    page = (output / "report.md").read_text("utf-8")
    for table in streams.out.strip().split("\n\n"):
        assert table in page
    assert min(read_image(output / "accuracy.png").shape[:2]) > 100


def test_routes_are_tested_on_the_same_damaged_images(options, tmp_path, capsys):
    assert main([*options, "--kinds", "noisy", "--severities", "5"]) == 0
    lines = (tmp_path / "report" / "cells.jsonl").read_text("utf-8").splitlines()[1:]
    cells = {(e["kind"], e["route"]): [d == "1" for d in e["correct"]] for e in map(json.loads, lines)}
    test = compare_paired(cells["noisy", "upscaled"], cells["noisy", "native"])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "| noisy | 5 |" in line)
    assert f"| {test.p_value:.2g} |" in row
    assert f"{100 * test.difference.value:+.2f} (" in row


def test_one_route_alone_has_no_difference(options, capsys):
    assert main([*options, "--kinds", "hazy,clean", "--severities", "1", "--routes", "auto"]) == 0
    printed = capsys.readouterr().out
    assert "McNemar" not in printed
    assert "| colours | hazy | 1 | " in printed


def test_measured_cells_are_kept_and_a_seed_is_part_of_them(options, tmp_path, monkeypatch, capsys):
    few = [*options, "--kinds", "rainy", "--routes", "native"]
    assert main([*few, "--severities", "1"]) == 0
    measure, measured = _cells._measure, []

    def record(cell, *rest):
        measured.append(cell.condition["severity"])
        return measure(cell, *rest)

    monkeypatch.setattr(_cells, "_measure", record)
    assert main([*few, "--severities", "1,6", "--resume"]) == 0
    assert measured == [6]
    assert main([*few, "--severities", "1", "--resume", "--seed", "1"]) == 1
    assert "seed was 0 and is now 1" in capsys.readouterr().err


def test_the_damage_is_what_the_room_makes(options, tmp_path, monkeypatch):
    """The files that are classified hold the draw of (seed, image, kind), the same for both routes."""
    from clipsr_training.data import decode
    from clipsr_training.degradation import degrade, generator, strength_of
    from clipsr_training.evaluation._degraded import DegradedPlan

    seen: dict = {}
    cells = DegradedPlan.cells

    def keep(plan):
        seen["cells"] = cells(plan)
        return seen["cells"]

    monkeypatch.setattr(DegradedPlan, "cells", keep)
    assert main([*options, "--kinds", "snowy", "--severities", "4", "--seed", "9"]) == 0
    one, two = (cell for cell in seen["cells"] if cell.condition["kind"] == "snowy")
    content, name = one.images.read(5), one.images.names[5]
    expected = degrade(np.asarray(decode(content, name)), "snowy", strength_of(4), generator(9, 5, "snowy"))
    for cell in (one, two):
        assert np.array_equal(np.asarray(decode(cell.prepare(content, name, 5), name)), expected)


def test_a_sheet_shows_every_kind_and_measures_nothing(options, tmp_path, capsys):
    assert main([*options, "--sheet", "--severities", "1,6"]) == 0
    sheet = tmp_path / "report" / "sheet.png"
    assert capsys.readouterr().out.strip() == str(sheet)
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["sheet.png"]
    height, width = read_image(sheet).shape[:2]
    assert height > 1000 > width > 300
    assert main([*options, "--seed", "-1"]) == 1
    assert "--seed must not be negative" in capsys.readouterr().err


def test_a_controller_is_measured_beside_the_model_alone(options, tmp_path, capsys):
    clip = load_clip("checkpoints/clipsr-small")
    torch.manual_seed(0)
    untrained = Controller(clip.model.visual, clip.image_size_px, ("noisy", "clean"))
    random = Controller(clip.model.visual, clip.image_size_px, ())
    with torch.no_grad():
        untrained.prototypes.normal_()
        for parameter in random.connections.parameters():
            parameter.normal_()
    few = [*options, "--kinds", "noisy", "--severities", "3", "--routes", "native"]
    found: dict[str, list[float]] = {}
    for name, controller in (("untrained", untrained), ("random", random)):
        folder = save_controller(ControlledClip(clip=clip, controller=controller.eval()), tmp_path / name)
        assert main([*few, "--controller", str(folder), "--output", str(tmp_path / f"{name}-report")]) == 0
        report = report_of(tmp_path / f"{name}-report")
        assert report["controlled"]["digest"] != report["model"]["digest"]
        (entry,) = report["sets"]
        assert [(row["kind"], row.get("encoder")) for row in entry["top1"]] == [
            *((None, None), (None, "controller")),
            *(("noisy", None), ("noisy", "controller")),
        ]
        found[name] = [row["value"] for row in entry["top1"]]
        printed = capsys.readouterr().out
        assert "| plain resize | plain resize, controller | controller, plain resize: difference, points |" in printed
    # Untrained, a controller changes nothing; one of noise changes answers.
    assert found["untrained"][0::2] == found["untrained"][1::2]
    assert found["random"][0::2] == found["untrained"][0::2]
    assert found["random"][1::2] != found["untrained"][1::2]
    lines = (tmp_path / "untrained-report" / "cells.jsonl").read_text("utf-8").splitlines()[1:]
    assert [json.loads(line).get("encoder") for line in lines] == [None, "controller"] * 2
    assert main([*few, "--controller", str(tmp_path / "untrained"), "--backend", "onnx"]) == 1
    assert "leave out --backend onnx" in capsys.readouterr().err
    assert main([*few, "--controller", str(tmp_path / "nowhere")]) == 1
    assert "no controller at" in capsys.readouterr().err
