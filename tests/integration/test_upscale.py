"""From an image file to a larger one, through gateway and Triton, against the same model in PyTorch."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import tritonclient.grpc as triton_grpc
from PIL import Image as PilImage

from clipsr import Client, InvalidRequestError
from clipsr_training.liif import Upscaler, load_liif
from tests.tolerances import LEVELS


@pytest.fixture(scope="module")
def upscaler(repo_root) -> Upscaler:
    return load_liif(repo_root / "checkpoints" / "liif-fast" / "liif.safetensors")


@pytest.fixture(scope="module")
def photo(repo_root) -> np.ndarray:
    """[120, 160, 3] of sharp edges at all places: a photo, enlarged by repetition and turned a little."""
    with PilImage.open(repo_root / "samples" / "bus.png") as image:
        large = image.convert("RGB").resize((240, 240), PilImage.Resampling.NEAREST).rotate(7)
        return np.array(large.crop((40, 60, 200, 180)))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels_of(content: bytes) -> np.ndarray:
    with PilImage.open(io.BytesIO(content)) as image:
        return np.array(image)


@torch.inference_mode()
def render(upscaler: Upscaler, pixels: np.ndarray, target_hw: tuple[int, int]) -> np.ndarray:
    """The whole image at once, [rows, columns, 3] in levels, not rounded."""
    sr = upscaler.upscale(torch.from_numpy(pixels).permute(2, 0, 1), target_hw)
    return (sr.clamp(0, 1) * 255).permute(1, 2, 0).numpy()


def difference(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """By pixel, the largest over the channels, in levels."""
    assert actual.shape == expected.shape
    return np.abs(actual.astype(np.float64) - expected).max(axis=2)


def test_a_photo_at_four_times_its_size_equals_pytorch_without_a_seam(client, upscaler, photo):
    assert photo.shape == (120, 160, 3)
    answer = client.upscale(png(photo), scale=4)
    assert (answer.input_hw, answer.output_hw) == ((120, 160), (480, 640))
    error = difference(pixels_of(answer.content), render(upscaler, photo, (480, 640)))
    assert error.max() <= LEVELS
    # Both sides of every border between tiles are as close to the whole rendering as the inside is.
    tile_px = client.model_info().image_size_px
    rows, columns = (np.isin(np.arange(side) % tile_px, (0, tile_px - 1)) for side in (480, 640))
    border = rows[:, None] | columns[None, :]
    assert error[border].mean() <= error[~border].mean() + 0.01
    assert answer.inference_ms > 0


@pytest.mark.parametrize(
    ("source_hw", "target_hw"),
    [
        ((120, 160), (420, 560)),  # 3.5: some targets lie exactly between two latent codes
        ((120, 160), (300, 400)),  # 2.5
        ((120, 160), (384, 512)),
        ((60, 160), (384, 512)),  # another aspect ratio
        ((97, 31), (331, 211)),  # nothing divides anything
        ((20, 9), (50, 21)),  # smaller than a tile
        ((1, 1), (5, 70)),
        ((1, 30), (3, 200)),
        ((33, 33), (33, 33)),
    ],
)
def test_other_sizes_equal_pytorch(client, upscaler, photo, source_hw, target_hw):
    part = np.ascontiguousarray(photo[: source_hw[0], : source_hw[1]])
    answer = client.upscale(png(part), size_hw=target_hw)
    assert difference(pixels_of(answer.content), render(upscaler, part, target_hw)).max() <= LEVELS


def test_a_wrong_window_would_be_noticed(upscaler, photo):
    """The comparison can fail: an edge where there is none changes the picture by more than the tolerance."""
    cut = photo[:, :80]
    error = difference(render(upscaler, cut, (480, 320)), render(upscaler, photo, (480, 640))[:, :320])
    assert error[:, -8:].max() > 2 * LEVELS


def test_transparency_survives(client, upscaler, photo):
    part = photo[:40, :50]
    alpha = np.asarray(PilImage.radial_gradient("L").resize((50, 40))).clip(1, 255)
    answer = pixels_of(client.upscale(png(np.dstack([part, alpha])), scale=2).content)
    assert answer.shape == (80, 100, 4)
    assert difference(answer[..., :3], render(upscaler, part, (80, 100))).max() <= LEVELS
    grey = render(upscaler, np.dstack([alpha] * 3), (80, 100)).mean(axis=2, keepdims=True)
    assert difference(answer[..., 3:], grey).max() <= LEVELS


def test_a_grey_image_stays_grey(client):
    grey = np.asarray(PilImage.linear_gradient("L").resize((30, 30)))
    assert pixels_of(client.upscale(png(grey), scale=2).content).shape == (60, 60)


def test_refusals_name_the_field(client, photo):
    limit = client.model_info().limits.max_output_pixels
    with pytest.raises(InvalidRequestError, match=f"{limit:,}") as caught:
        client.upscale(png(photo), scale=100)
    assert (caught.value.reason, caught.value.violations[0][0]) == ("OUTPUT_TOO_LARGE", "scale")
    with pytest.raises(InvalidRequestError) as caught:
        client.upscale(png(photo)[:3000], scale=2)
    assert (caught.value.reason, caught.value.violations[0][0]) == ("IMAGE_TRUNCATED", "image.content")
    transparent = np.zeros((8, 8, 4), np.uint8)
    transparent[0] = 255
    with pytest.raises(InvalidRequestError, match="PNG or WebP or TIFF") as caught:
        client.upscale(png(transparent), scale=2, output_format="jpeg")
    assert caught.value.reason == "FORMAT_WITHOUT_ALPHA"


def test_the_service_has_its_own_health(client):
    assert client.health(service="clipsr.v1.UpscalerService") == "SERVING"


def test_a_folder_on_the_command_line(service, photo, tmp_path):
    photos, large = tmp_path / "photos", tmp_path / "large"
    (photos / "sub").mkdir(parents=True)
    PilImage.fromarray(photo[:40, :60]).save(photos / "a.jpg")
    PilImage.fromarray(photo[:30, :30]).save(photos / "sub" / "b.webp")
    (photos / "broken.png").write_bytes(png(photo)[:3000])
    run = service.cli("upscale", photos, large, "--scale", "3.5")
    assert run.returncode == 1, run.stderr
    assert "broken.png: INVALID_ARGUMENT" in run.stderr
    assert "3 images: 2 upscaled, 1 failed" in run.stdout
    for path, kind, size in ((large / "a.jpg", "JPEG", (210, 140)), (large / "sub" / "b.webp", "WEBP", (105, 105))):
        with PilImage.open(path) as image:
            assert (image.format, image.size) == (kind, size)
    again = service.cli("upscale", photos, large, "--size", "512x384")
    assert again.returncode == 1
    assert again.stderr.count("--force") == 2
    one = service.cli("upscale", photos / "a.jpg", tmp_path / "one.png", "--size", "512x384")
    assert one.returncode == 0, one.stderr
    with PilImage.open(tmp_path / "one.png") as image:
        assert image.size == (512, 384)
    too_large = service.cli("upscale", photos / "a.jpg", tmp_path / "two.png", "--scale", "200")
    assert too_large.returncode == 1
    assert "clipsr-client info" in too_large.stderr
    assert not (tmp_path / "two.png").exists()


def test_a_deadline(service, photo):
    with Client(service.url) as hurried, pytest.raises(Exception, match=r"within 0\.01 s"):
        hurried.upscale(png(photo), scale=8, timeout_s=0.01)


def test_any_kserve_client_can_render_a_part(service, repo_root, upscaler, photo):
    """The window and box of docs/tensor-contract.md, written down by hand for one tile in the middle."""
    manifest = json.loads((repo_root / "model_repository" / "manifest.json").read_text())
    recipe, size = manifest["upscale_recipes"]["clean"], manifest["image_encoder"]["image_size_px"]
    reach = recipe["receptive_field_px"]
    top, left = 50, 70
    window = photo[top - reach : top + size // 4 + reach, left - reach : left + size // 4 + reach]
    canvas = triton_grpc.InferInput("canvas", [1, 3, *window.shape[:2]], "UINT8")
    canvas.set_data_from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)[None]))
    box = triton_grpc.InferInput("box", [1, 4], "FP32")
    box.set_data_from_numpy(np.array([[reach, reach, size / 4, size / 4]], np.float32))
    with triton_grpc.InferenceServerClient(service.triton["grpc"]) as triton:
        pixels = triton.infer(recipe["model"], [canvas, box]).as_numpy("pixels")[0].transpose(1, 2, 0)
    whole = render(upscaler, photo, (480, 640))[top * 4 : top * 4 + size, left * 4 : left * 4 + size]
    assert difference(pixels, whole).max() <= LEVELS
