"""The table of accuracies: what is counted, and what is written where."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmarks.accuracy import __main__ as evaluate
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageColumn
from PIL import Image

from clipsr_training.evaluation._backends.base import Ranking

LABELS = ("cat", "dog", "ship")
N = 12


class StandIn:
    """A back end that tells an image from its grey level, and is wrong about those that it is told to be."""

    def __init__(self, kind: str, wrong: Sequence[int], offered: Sequence[str] = ("cifar10", "cifar100")) -> None:
        self.kind, self.wrong, self.seen = kind, wrong, []
        self.info = SimpleNamespace(
            name="toy", digest="sha256:0", label_sets=dict.fromkeys(offered, LABELS), default_templates="@simple"
        )

    def describe(self) -> dict[str, object]:
        return {"backend": self.kind, "model": "toy", "digest": "sha256:0"}

    def classifier(self, labels: Sequence[str], templates: Sequence[str]) -> StandIn:
        assert (tuple(labels), tuple(templates)) == (LABELS, ("@simple",))
        return self

    def rank(self, files: Sequence[bytes], names: Sequence[str], *, route: str, k: int) -> Ranking:
        self.seen += [Image.open(io.BytesIO(file)).format for file in files]
        rows = [int(np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))[0, 0, 0]) // 20 for file in files]
        best = np.array([(row + (row in self.wrong)) % 3 for row in rows])
        return Ranking(indices=(best[:, None] + np.arange(3)) % 3, cosines=np.tile([0.3, 0.2, 0.1], (len(rows), 1)))


@pytest.fixture
def options(tmp_path) -> list[str]:
    """Options of the command, with data in which image i has the class i % 3 and the grey level 20 i."""
    features = Features({"image": ImageColumn(), "label": ClassLabel(names=["a", "b", "c"])})
    images = [Image.new("RGB", (32, 32), (20 * i + 10,) * 3) for i in range(N)]
    table = Dataset.from_dict({"image": images, "label": [i % 3 for i in range(N)]}, features=features)
    for name in ("cifar10", "cifar100"):
        table.to_parquet(tmp_path / name / "test.parquet")
    (tmp_path / "readme.md").write_text("before\n<!-- accuracy:begin -->\nold\n<!-- accuracy:end -->\nafter\n")
    found = {"url": "nowhere:1", "data": tmp_path, "output": tmp_path / "results", "readme": tmp_path / "readme.md"}
    return [str(word) for name, value in found.items() for word in (f"--{name}", value)]


def run(monkeypatch, options: Sequence[str], service: StandIn, reference: StandIn) -> int:
    monkeypatch.setattr(evaluate, "GrpcBackend", lambda url: service)
    monkeypatch.setattr(evaluate, "TorchBackend", lambda clip, upscaler, *, name: reference)
    return evaluate.main(options)


def test_the_sides_are_counted_on_the_same_images(options, tmp_path, monkeypatch, capsys):
    assert run(monkeypatch, options, StandIn("grpc", [1, 2]), StandIn("torch", [2, 3, 7])) == 0
    record = json.loads((tmp_path / "results" / "accuracy.json").read_text())
    assert [result["data_set"] for result in record["results"]] == ["cifar10", "cifar100"]
    for result in record["results"]:
        assert (result["n_images"], result["service_top1"], result["torch_top1"]) == (N, 10 / N, 9 / N)
        assert result["agreement"] == 9 / N  # of image 2 they say the same, though it is wrong
        assert result["service_images_per_s"] > 0
    page = (tmp_path / "readme.md").read_text()
    assert "| cifar10 test, 12 images | `@cifar10` | 83.33% | 75.00% | 75.00% |" in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "83.33%" in capsys.readouterr().out


def test_a_part_of_the_images_or_others_are_not_written(options, tmp_path, monkeypatch, capsys):
    service = StandIn("grpc", [])
    for more in (["--limit", "5"], ["--webp-quality", "95"]):
        assert run(monkeypatch, [*options, *more], service, StandIn("torch", [])) == 0
        assert "nothing was written" in capsys.readouterr().err
    assert service.seen == ["PNG"] * 10 + ["WEBP"] * 24
    assert not (tmp_path / "results").exists()
    assert "old" in (tmp_path / "readme.md").read_text()


def test_a_service_of_another_model_is_refused(options, monkeypatch, capsys):
    service = StandIn("grpc", [], offered=["cifar10"])
    assert run(monkeypatch, options, service, StandIn("torch", [])) == 1
    assert "evaluate: the service offers no label set @cifar100: serve the model" in capsys.readouterr().err
    assert not service.seen


def test_a_service_that_does_not_answer_is_one_line(options, capsys):
    assert evaluate.main(options) == 1
    error = capsys.readouterr().err
    assert error.startswith("evaluate: the service at nowhere:1 can't be asked")
    assert error.count("\n") == 1


def test_missing_data_is_one_line(options, tmp_path, monkeypatch, capsys):
    Path(tmp_path / "cifar100" / "test.parquet").unlink()
    assert run(monkeypatch, options, StandIn("grpc", []), StandIn("torch", [])) == 1
    assert "cifar100/test.parquet" in capsys.readouterr().err
