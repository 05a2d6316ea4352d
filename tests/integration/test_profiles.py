"""The profiles for processors, each started for real; those for GPUs refused where there is none."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from clipsr import Classification, Client
from clipsr_export.cli import main as export
from tests.integration.conftest import running, serve

LABELS = ["cat", "bus", "airplane", "horse"]


@pytest.fixture(scope="module")
def with_int8(repo_root, tmp_path_factory) -> Path:
    """The exported repository with an int8 encoder, calibrated on the sample photos as thumbnails."""
    folder = tmp_path_factory.mktemp("int8")
    (folder / "images" / "sample").mkdir(parents=True)
    for path in sorted((repo_root / "samples").glob("*.png")):
        with Image.open(path) as image:
            image.convert("RGB").resize((32, 32)).save(folder / "images" / "sample" / path.name)
    repository = Path(shutil.copytree(repo_root / "model_repository", folder / "repository"))
    assert export(["int8", "--repository", str(repository), "--calibration", str(folder / "images")]) == 0
    return repository


@pytest.mark.parametrize(("profile", "engine"), [("cpu", "openvino"), ("cpu-int8", "onnxruntime")])
def test_a_profile_serves_and_names_the_same_things(serve_bin, with_int8, repo_root, tmp_path, client, profile, engine):
    image = repo_root / "samples" / "cat.png"
    (expected,) = client.classify([image], LABELS)
    assert isinstance(expected, Classification)
    with (
        running(serve_bin, with_int8, tmp_path / "state", "--profile", profile) as started,
        Client(started.url, timeout_s=60) as other,
    ):
        (outcome,) = other.classify([image], LABELS)
        log = (started.state_dir / "triton.log").read_text(encoding="utf-8")
    assert isinstance(outcome, Classification)
    assert outcome.predictions[0].label == expected.predictions[0].label == "cat"
    # Two types of numbers, one model: cosines agree to two digits.
    assert outcome.predictions[0].cosine == pytest.approx(expected.predictions[0].cosine, abs=0.02)
    assert f"model image_encoder: {engine}" in log


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_a_gpu_that_is_not_there_ends_the_start(serve_bin, repo_root, tmp_path):
    where = ("--state-dir", tmp_path / "state", "--repository", repo_root / "model_repository")
    for profile, sentence in (("gpu-onnx", "needs an NVIDIA GPU"), ("gpu-tensorrt", "no TensorRT")):
        up = serve(serve_bin, "up", "--detach", *where, "--profile", profile)
        assert up.returncode == 1
        assert sentence in up.stderr
        assert not (tmp_path / "state" / "triton.log").exists()
