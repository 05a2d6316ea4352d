"""One process for all that is done to an image, and one for each model: the same answers."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from clipsr import Classification, Client, FailedImage
from tests.integration.conftest import running

LABELS = ["airplane", "cat", "horse", "giraffe"]


def large_jpeg() -> bytes:
    """A picture that is decoded in a thread of its own."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((1600, 1200)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def contents(repo_root) -> list[bytes]:
    samples = [path.read_bytes() for path in sorted((repo_root / "samples").glob("*.png"))]
    large = large_jpeg()
    return [*samples, large, samples[0][:200], b"no image", large[: len(large) // 3]]


@pytest.mark.slow  # starts a second service
def test_the_answers_are_the_same(serve_bin, repo_root, tmp_path, client, service, contents):
    with running(
        serve_bin,
        repo_root / "model_repository",
        tmp_path / "state",
        "--profile",
        "cpu-onnx",
        "--processes",
        "separate",
    ) as separate:
        log = (separate.state_dir / "triton.log").read_text(encoding="utf-8")
        assert "image_path" not in log
        assert "TRITONBACKEND_ModelInstanceInitialize: decode_0_0" in log
        with Client(separate.url, timeout_s=60) as other:
            for route in ("upscaled", "native"):
                ours = client.classify(contents, LABELS, route=route, top_k=0)
                theirs = other.classify(contents, LABELS, route=route, top_k=0)
                for one, same in zip(ours, theirs, strict=True):
                    if isinstance(one, FailedImage):
                        assert one == same
                        continue
                    assert isinstance(one, Classification)
                    assert isinstance(same, Classification)
                    cosines, others = ({p.label: p.cosine for p in each.predictions} for each in (one, same))
                    assert cosines == pytest.approx(others, abs=1e-5)
            upscaled = [each.upscale(contents[0], scale=4) for each in (client, other)]
            assert upscaled[0].content == upscaled[1].content
    assert "TRITONBACKEND_ModelInstanceInitialize: image_path_0_0" in (service.state_dir / "triton.log").read_text()
