"""`clipsr-eval drawings`: what other models see in drawings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from clipsr_training._cli.eval import drawings as command
from clipsr_training._cli.evaluate import main
from clipsr_training.data import SetOptions, open_set
from clipsr_training.evaluation._backends.base import Ranking
from clipsr_training.evaluation._drawings import Judgement, judge_drawings, measure_top1, to_markdown


class Fixed:
    """A classifier that ranks files of a digit by their cosines."""

    def __init__(self, cosines: Mapping[bytes, Sequence[float] | np.ndarray]) -> None:
        self.cosines = cosines

    def rank(self, files, names, *, route, k) -> Ranking:
        cosines = np.array([self.cosines[file] for file in files])
        order = np.argsort(-cosines, axis=1)[:, :k]
        return Ranking(indices=order, cosines=np.take_along_axis(cosines, order, 1))


def test_a_drawing_is_named_by_its_largest_cosine():
    judge = Fixed({b"0": [0.1, 0.5, 0.3], b"1": [0.2, 0.9, 0.1], b"2": [0.3, 0.2, 0.4]})
    verdicts = judge_drawings(judge, {"cat": b"0", "dog": b"1", "ship": b"2"})
    assert [(v.label, v.first, v.is_named) for v in verdicts] == [
        ("cat", "dog", False), ("dog", "dog", True), ("ship", "ship", True)
    ]  # fmt: skip
    assert (verdicts[0].cosine, verdicts[0].first_cosine) == (0.1, 0.5)
    judgement = Judgement(judge="other", verdicts=verdicts)
    assert judgement.n_named == 2
    page = to_markdown([judgement, judgement])
    assert "- other names 2 of 3 drawings (chance 1)." in page
    assert "| cat | dog | 0.10 (0.50 with dog) | dog | 0.10 (0.50 with dog) |" in page
    assert "| ship | **ship** | 0.40 | **ship** | 0.40 |" in page


def test_accuracy_is_that_of_all_batches(parquet):
    images = open_set(str(parquet), SetOptions())
    right = {images.read(i): np.eye(3)[images.targets[i] if i % 4 else (images.targets[i] + 1) % 3] for i in range(48)}
    assert measure_top1(Fixed(right), images, 10).value == 0.75


@pytest.fixture
def arguments(repo_root, tmp_path) -> list[str]:
    model = str(repo_root / "checkpoints/clipsr-small")
    quick = ["--strokes", "3", "--steps", "2", "--views", "1", "--labels", "cat,polar bear"]
    return ["drawings", "--model", model, "--judge", model + "/", *quick, "--output", str(tmp_path / "out")]


def test_the_command_draws_judges_and_resumes(arguments, tmp_path, capsys, monkeypatch):
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    folder = tmp_path / "out"
    assert (folder / "report.md").read_text() == printed
    assert {path.name for path in folder.glob("*.svg")} == {"cat.svg", "polar-bear.svg"}
    own, other = json.loads((folder / "report.json").read_text())["judgements"]
    for verdict, same in zip(own["verdicts"], other["verdicts"], strict=True):
        assert verdict == pytest.approx(same, abs=1e-5), "the judge is the same model, in another layout"
    assert own["named"] == sum(verdict["named"] for verdict in own["verdicts"])
    monkeypatch.setattr(command, "draw_with_progress", lambda *_: pytest.fail("drawn again"))
    assert main([*arguments, "--resume"]) == 0
    assert capsys.readouterr().out == printed
    with pytest.raises(pytest.fail.Exception, match="drawn again"):
        main([*arguments, "--resume", "--seed", "1"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--labels", "a b,a-b"], "would both become"),
        (["--judge", "nowhere"], "nowhere"),
        (["--template", "a photo"], "{}"),
        (["--data", "PARQUET"], "has other labels than the drawings"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_drawn(changes, message, arguments, parquet, tmp_path, capsys):
    assert main([*arguments, *(str(parquet) if change == "PARQUET" else change for change in changes)]) == 1
    # Above it, a library shows how far it has read a table.
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clipsr-eval: ")]
    assert len(error) == 1
    assert message in error[0]
    assert not list(tmp_path.glob("out/*.svg"))
