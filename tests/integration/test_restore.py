"""Restoration through gateway and Triton, with a small restorer of random weights, against PyTorch."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
from PIL import Image as PilImage

from clipsr import Client, InvalidRequestError
from clipsr_export.cli import main
from clipsr_serving.restoration._noise import pixel_noise
from clipsr_training.clip import save_clip
from clipsr_training.liif import save_liif
from clipsr_training.restoration import Restorer, plan_steps, save_restorer
from clipsr_training.restoration._contexts import share_kinds
from clipsr_training.restoration._sampling import sample
from tests.export.tiny import make_clip, make_restorer, make_upscaler
from tests.integration.conftest import Service, running
from tests.tolerances import LEVELS


@pytest.fixture(scope="module")
def restorer() -> Restorer:
    return make_restorer()


@pytest.fixture(scope="module")
def service(serve_bin, repo_root, restorer, graphs_written_once, tmp_path_factory) -> Iterator[Service]:
    """A service with a restorer, and a CLIP and an upscaler as small as they can be."""
    folder = tmp_path_factory.mktemp("restore")
    save_clip(make_clip(), folder / "clip")
    save_liif(make_upscaler(), folder / "liif.safetensors")
    save_restorer(restorer, folder / "restorer.safetensors")
    words = {"clip": folder / "clip", "upscaler": folder / "liif.safetensors"}
    words |= {"restorer": folder / "restorer.safetensors", "template": repo_root / "model_repository"}
    words |= {"samples": folder, "output": folder / "repository"}
    assert main(["--no-text-banks", *(str(part) for name, path in words.items() for part in (f"--{name}", path))]) == 0
    with running(serve_bin, folder / "repository", folder / "state", "--profile", "cpu-onnx") as started:
        yield started


@pytest.fixture
def client(service) -> Iterator[Client]:
    with Client(service.url, timeout_s=120) as connected:
        yield connected


@torch.inference_mode()
def expected(restorer: Restorer, rgb: np.ndarray, kinds: list[str] | None, steps: int, seed: int) -> np.ndarray:
    """[H, W, 3] in levels, not rounded, as PyTorch restores the whole picture at once."""
    mu = torch.from_numpy(rgb.transpose(2, 0, 1)[None] / np.float32(255))
    contexts = (torch.from_numpy(share_kinds(kinds))[None],) * 2
    state = mu + restorer.schedule.noise_level * torch.from_numpy(pixel_noise(seed, 0, rgb.shape[:2]))
    plan = plan_steps(restorer.schedule, "ode-2", steps)
    clean = sample(
        lambda x, time: restorer.predict(x, mu, time, contexts), mu, state, plan, lambda _: torch.zeros_like(mu)
    )
    return (clean[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()


def picture(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


@pytest.mark.parametrize(("size_hw", "steps"), [((37, 50), 1), ((37, 50), 5), ((1, 1), 3), ((128, 30), 2)])
def test_the_model_restores_what_pytorch_restores(service, restorer, size_hw, steps):
    rgb, context = picture(*size_hw), share_kinds(["hazy"])[None]
    tensors = {
        "lq": np.ascontiguousarray(rgb.transpose(2, 0, 1)[None]),
        "content": context,
        "degradation": context,
        "steps": np.array([[steps]], np.int32),
        "seed": np.array([[7]], np.uint64),
    }
    types = {"uint8": "UINT8", "float32": "FP32", "int32": "INT32", "uint64": "UINT64"}
    inputs = [triton_grpc.InferInput(name, a.shape, types[str(a.dtype)]) for name, a in tensors.items()]
    for tensor, array in zip(inputs, tensors.values(), strict=True):
        tensor.set_data_from_numpy(array)
    with triton_grpc.InferenceServerClient(service.triton["grpc"]) as triton:
        answer = triton.infer("restore", inputs)
    restored = answer.as_numpy("restored")[0].transpose(1, 2, 0)
    assert np.abs(restored - expected(restorer, rgb, ["hazy"], steps, 7)).max() <= LEVELS


def test_client_and_command_line_restore_what_pytorch_restores(client, service, restorer, tmp_path):
    rgb = picture(40, 50)
    PilImage.fromarray(rgb).save(tmp_path / "in.png")
    answer = client.restore(rgb, remove=["the haze"], seed=2**64 - 1)
    assert (answer.removed, answer.steps, answer.unchanged, answer.size_hw) == (("hazy",), 5, False, (40, 50))
    with PilImage.open(io.BytesIO(answer.content)) as image:
        assert np.abs(np.asarray(image) - expected(restorer, rgb, ["hazy"], 5, 2**64 - 1)).max() <= LEVELS
    done = service.cli("restore", tmp_path / "in.png", tmp_path / "out.png", "--force", "--steps", 1)
    assert done.returncode == 0, done.stderr
    with PilImage.open(tmp_path / "out.png") as image:
        assert np.abs(np.asarray(image) - expected(restorer, rgb, None, 1, 0)).max() <= LEVELS


def test_large_pictures_are_restored_in_tiles_and_repeatably(client):
    rgb = picture(150, 300)
    answers = [client.restore(rgb, remove=["noise"], steps=2, seed=seed) for seed in (1, 1, 2)]
    assert answers[0].size_hw == (150, 300)
    assert answers[0].content == answers[1].content != answers[2].content


def test_a_bad_request_is_said_by_its_field_and_hurts_nobody(client):
    with pytest.raises(InvalidRequestError, match="'mould' names no damage") as caught:
        client.restore(picture(4, 4), remove=["mould"])
    assert caught.value.reason == "DAMAGE_UNKNOWN"
    with pytest.raises(InvalidRequestError, match="1,000 steps"):
        client.restore(picture(4, 4), remove=["haze"], steps=1000)
    assert client.restore(picture(1, 1), remove=["haze"]).size_hw == (1, 1)
    assert client.model_info().restorer.max_steps == 20
