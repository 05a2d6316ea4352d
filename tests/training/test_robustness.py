"""SAR and WAR against the figures that LR0.FM's accuracies give."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest

from clipsr_training.evaluation._robustness import SetAccuracy, improved_robustness, published_weights, sar, war


def published(golden_dir: Path) -> dict[str, list[SetAccuracy]]:
    """Accuracies by "MODEL@RESOLUTION", as in the file of expected figures."""
    with (golden_dir / "lr0fm" / "openai_clip_top1.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    top1 = {(row["model"], row["dataset"], row["resolution"]): float(row["top1"]) / 100 for row in rows}
    weights = published_weights()
    groups: dict[str, list[SetAccuracy]] = defaultdict(list)
    for row in rows:
        if row["resolution"] != "224":
            accuracy = SetAccuracy(
                reduced=top1[row["model"], row["dataset"], row["resolution"]],
                reference=top1[row["model"], row["dataset"], "224"],
                n_classes=int(row["num_classes"]),
                weight=weights[row["dataset"]],
            )
            groups[f"{row['model']}@{row['resolution']}"].append(accuracy)
    return groups


def test_published_accuracies_give_the_published_robustness(golden_dir):
    expected = json.loads((golden_dir / "lr0fm" / "expected_sar_war.json").read_text("utf-8"))
    groups = published(golden_dir)
    assert set(groups) == set(expected)
    for name, figures in expected.items():
        # The file holds four decimals.
        assert sar(groups[name]) == pytest.approx(figures["SAR"], abs=1e-4), name
        assert war(groups[name]) == pytest.approx(figures["WAR"], abs=1e-4), name


def test_the_weights_are_those_of_the_accuracies(golden_dir):
    with (golden_dir / "lr0fm" / "openai_clip_top1.csv").open(encoding="utf-8", newline="") as file:
        assert published_weights() == {row["dataset"]: float(row["weight"]) for row in csv.DictReader(file)}


def test_a_reference_at_chance_carries_no_weighted_robustness():
    at_chance = SetAccuracy(reduced=0.1, reference=0.1, n_classes=10)
    assert sar([at_chance]) == 1
    assert improved_robustness(at_chance) == 0
    nothing = SetAccuracy(reduced=0, reference=0, n_classes=10)
    assert sar([nothing]) == 0
