"""The sweep over sizes of the upscaler: on a handful of images, killed and resumed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.accuracy import upscaler_sizes
from benchmarks.accuracy.upscaler_sizes import Row, Size, lr12, main, report
from benchmarks.liif.timing import Spread

from clipsr_training.clip import save_clip
from clipsr_training.evaluation._low_resolution import LR12_REDUCTIONS, LR12_SIZES_PX, ReducedCondition
from clipsr_training.evaluation._statistics import bootstrap_mean
from tests.training.made_images import png
from tests.training.tiny_clips import tiny_clip


@pytest.mark.parametrize("text", ["8x32", "8x32x0", "ax1x1", "8x32x16,8x32x16", ""])
def test_what_is_no_list_of_sizes_is_a_wrong_command_line(text, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["--model", "m", "--data", "d", "--tiny", "t", "--sizes", text, "--output", str(tmp_path)])
    assert ended.value.code == 2
    assert "--sizes" in capsys.readouterr().err


def test_lr12_is_the_mean_over_its_cells():
    cells = [ReducedCondition(size, r, "liif") for size in LR12_SIZES_PX for r in LR12_REDUCTIONS]
    correct = {cell: np.array([True, i < 6]) for i, cell in enumerate(cells)}
    assert lr12(correct).tolist() == [1, 6 / len(cells)]


def test_a_row_says_what_is_lost_against_the_first():
    spread, right = Spread(median=0.2, low=0.19, high=0.22), np.array([1.0, 0.0, 1.0, 1.0])
    rows = [
        Row(
            size="8x32x16",
            n_parameters=1_000,
            gmacs=0.2,
            of_encoder=spread,
            lr12=bootstrap_mean(right),
            difference=None,
        ),
        Row(
            size="2x8x4",
            n_parameters=10,
            gmacs=0.01,
            of_encoder=spread,
            lr12=bootstrap_mean(right),
            difference=bootstrap_mean(right - 1),
        ),
    ]
    first, second = report(rows, n_images=4, clip_name="tiny").splitlines()[2:4]
    assert first.startswith("| 8x32x16 | 1,000 | 0.200 | 20 % (19 – 22) | 75.0")
    assert first.endswith("| – |")
    assert "-25.0" in second.replace("−", "-").rsplit("|", 2)[1]


@pytest.mark.slow
def test_the_command_trains_measures_and_resumes(tmp_path: Path, capsys, monkeypatch):
    for i in range(40):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / f"{i}.png").write_bytes(png((200, 40, 30) if i % 2 else (30, 60, 200), (80, 80), seed=i))
    with (tmp_path / "val.csv").open("w", newline="") as file:
        rows = [(f"photos/{i}.png", "rose" if i % 2 else "sky") for i in range(4)]
        csv.writer(file).writerows([("image", "label"), *rows])
    save_clip(tiny_clip("resnet"), tmp_path / "clip")
    monkeypatch.setattr(upscaler_sizes, "_N_ROUNDS", 2)
    monkeypatch.setattr(upscaler_sizes, "_ROUND_S", 0.0)
    command = ["--model", tmp_path / "clip", "--data", tmp_path / "photos", "--tiny", tmp_path, "--steps", 2]
    command += ["--draws", 64, "--sizes", "2x8x4,1x8x4", "--output", tmp_path / "out"]
    assert main([str(word) for word in command]) == 0
    page = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in page.splitlines() if line[:3] in ("| 2", "| 1")] == [
        "2x8x4",
        "1x8x4",
    ]
    assert (tmp_path / "out" / "sizes.png").stat().st_size > 1_000
    rows = json.loads((tmp_path / "out" / "sizes.json").read_text())
    assert rows[0]["gmacs"] > rows[1]["gmacs"]
    assert rows[0]["difference"] is None
    weights = tmp_path / "out" / str(Size(1, 8, 4)) / "adapted" / "liif.safetensors"
    before = weights.read_bytes()
    assert main([str(word) for word in command]) == 0
    assert weights.read_bytes() == before
