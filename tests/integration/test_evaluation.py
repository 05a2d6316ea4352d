"""The three back ends of `clipsr-eval` agree: PyTorch, the exported files, the running service."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipsr_training._cli.evaluate import main
from tests.tolerances import SERVICE_COSINE

_N_IMAGES = 300


@pytest.fixture
def _in_the_repository(monkeypatch, repo_root) -> None:
    monkeypatch.chdir(repo_root)


def measure(output: Path, data: Path, *options: str) -> dict:
    arguments = ["zeroshot", "--data", str(data), "--limit", str(_N_IMAGES), "--output", str(output), *options]
    assert main(arguments) == 0
    return json.loads((output / "report.json").read_text("utf-8"))


@pytest.mark.usefixtures("_in_the_repository")
def test_the_back_ends_agree_on_cifar10(service, data_dir, tmp_path):
    data = data_dir / "cifar10" / "test.parquet"
    measure(tmp_path / "torch", data)
    for name, options in {"onnx": (), "grpc": ("--url", service.url)}.items():
        report = measure(tmp_path / name, data, "--backend", name, "--compare", str(tmp_path / "torch"), *options)
        assert report["model"]["backend"] == name
        found = report["comparison"]
        # A tie may fall either way: one image in 300.
        assert found["same_top1"] >= 1 - 1 / _N_IMAGES, name
        assert found["max_cosine_difference"] <= SERVICE_COSINE, name


@pytest.mark.usefixtures("_in_the_repository")
def test_low_resolution_through_the_service_equals_the_exported_files(service, data_dir, tmp_path):
    data = str(data_dir / "cifar10" / "test.parquet")
    options = ["lowres", "--data", data, "--limit", "60", "--sizes", "12", "--no-check"]
    found = []
    for name, more in {"onnx": [], "grpc": ["--url", service.url]}.items():
        output = tmp_path / name
        assert main([*options, "--output", str(output), "--backend", name, *more]) == 0
        (entry,) = json.loads((output / "report.json").read_text("utf-8"))["sets"]
        found.append({row["rendering"]: row["value"] for row in entry["top1"]})
    for rendering, value in found[0].items():
        assert found[1][rendering] == pytest.approx(value, abs=1.5 / 60), rendering


@pytest.mark.usefixtures("_in_the_repository")
def test_an_image_that_the_service_refuses_is_named(service, tmp_path, capsys):
    (tmp_path / "data" / "cat").mkdir(parents=True)
    (tmp_path / "data" / "cat" / "broken.png").write_bytes(b"not an image")
    options = ["--data", str(tmp_path / "data"), "--no-check", "--backend", "grpc", "--url", service.url]
    assert main(["zeroshot", *options, "--output", str(tmp_path / "report")]) == 1
    assert "the service refused cat/broken.png: " in capsys.readouterr().err
