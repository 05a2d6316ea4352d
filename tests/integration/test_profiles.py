"""The profiles for processors, each started for real; those for GPUs refused where there is none."""

from __future__ import annotations

import shutil

import pytest

from clipsr import Classification, Client
from tests.integration.conftest import running, serve
from tests.samples import known_samples, label
from tests.tolerances import PROFILE_COSINE

LABELS = ["airplane", "automobile", "bus", "cat", "clock", "horse"]


@pytest.mark.parametrize(
    ("profile", "graph"),
    [pytest.param("cpu-bf16", "model.onnx", marks=pytest.mark.slow), ("cpu-int8", "model.int8.onnx")],
)
def test_a_profile_serves_and_names_the_same_things(serve_bin, repo_root, tmp_path, client, profile, graph):
    images = known_samples(repo_root)
    expected = client.classify(images, LABELS, top_k=0)  # by cpu-onnx, as most tests
    with (
        running(serve_bin, repo_root / "model_repository", tmp_path / "state", "--profile", profile) as started,
        Client(started.url, timeout_s=60) as other,
    ):
        outcomes = other.classify(images, LABELS, top_k=0)
        log = (started.state_dir / "triton.log").read_text(encoding="utf-8")
    for path, outcome, same in zip(images, outcomes, expected, strict=True):
        assert isinstance(outcome, Classification)
        assert isinstance(same, Classification)
        assert outcome.predictions[0].label == same.predictions[0].label == label(path)
        cosines, others = ({p.label: p.cosine for p in each.predictions} for each in (outcome, same))
        assert cosines == pytest.approx(others, abs=PROFILE_COSINE[profile])
    assert f"model image_encoder: openvino, {graph}" in log


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_a_gpu_that_is_not_there_ends_the_start(serve_bin, repo_root, tmp_path):
    where = ("--state-dir", tmp_path / "state", "--repository", repo_root / "model_repository")
    for profile, message in (("gpu-onnx", "needs an NVIDIA GPU"), ("gpu-tensorrt", "no TensorRT")):
        up = serve(serve_bin, "up", "--detach", *where, "--listen", "127.0.0.1:0", "--profile", profile)
        assert up.returncode == 1
        assert message in up.stderr
        assert not (tmp_path / "state" / "triton.log").exists()
