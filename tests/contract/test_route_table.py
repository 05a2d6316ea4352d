"""Gateway, serving and evaluation choose the same route: one code, of which each, installed by itself, has a copy."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsr_gateway import Limits, load_manifest
from clipsr_gateway._images.plan import _choose_route
from clipsr_gateway._route_table import estimate_noise, is_lossy
from clipsr_serving.images import read_image
from clipsr_serving.manifest import read_manifest
from clipsr_training.clip import load_clip
from clipsr_training.evaluation._backends.manifest import read_routes
from clipsr_training.evaluation._backends.pixels import Canvas
from clipsr_training.evaluation._backends.torch import TorchBackend

ROOT = Path(__file__).resolve().parents[2]
GATEWAY = ROOT / "gateway/src/clipsr_gateway/_route_table.py"
SERVING = ROOT / "serving/src/clipsr_serving/route_table.py"
TRAINING = ROOT / "training/src/clipsr_training/data/_route_table.py"


class Core:
    """What the gateway's choice needs of its core."""

    def __init__(self, repository: Path) -> None:
        self.manifest, self.limits = load_manifest(repository), Limits()


def rule(max_side_px: int, route: str, *, is_lossy: bool = False, max_noise: float | None = None) -> dict[str, object]:
    noise = {} if max_noise is None else {"max_noise": max_noise}
    measured = {"upscaled_agreement": 0.5, "native_agreement": 0.25, "n_images": 500}
    return {"max_side_px": max_side_px, "is_lossy": is_lossy, "route": route, **noise, **measured}


RULES = [
    rule(48, "native"),
    rule(48, "upscaled", max_noise=3),
    rule(24, "upscaled", max_noise=12),
    rule(24, "native"),
    rule(24, "native", max_noise=3),
    rule(48, "upscaled", is_lossy=True),
    rule(24, "native", is_lossy=True),
]


def picture(height: int, width: int, noise: float = 0.0, *, grey: bool = False) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    smooth = np.stack([60 + rows * 90 / height, 60 + columns * 90 / width, 80 + (rows + columns) * 40 / height], -1)
    noise_of = np.random.default_rng(0).normal(0, noise, (height, width, 1 if grey else 3))
    return Image.fromarray((smooth + noise_of).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def transparent(image: Image.Image) -> Image.Image:
    """The same with a half that can't be seen, where the noise is."""
    clear = image.convert("RGBA")
    clear.putalpha(
        Image.fromarray(np.where(np.arange(image.width) < 8, 255, 0).astype(np.uint8)[None].repeat(image.height, 0))
    )
    return clear


FILES = {
    "clean 16": (encode(picture(16, 20)), "native"),
    "noise 8 at 16": (encode(picture(16, 20, 8)), "upscaled"),
    "noise 20 at 16": (encode(picture(16, 20, 20)), "native"),
    "clean 32": (encode(picture(40, 32)), "upscaled"),
    "noise 8 at 32": (encode(picture(40, 32, 8)), "native"),
    "noise behind alpha": (encode(transparent(picture(40, 32, 8))), "upscaled"),
    "16 bits": (encode(Image.fromarray(np.full((32, 32), 30000, np.uint16))), "upscaled"),
    "palette": (encode(picture(40, 32, 20).quantize(64)), "native"),
    "JPEG 16": (encode(picture(16, 16, 8), "JPEG"), "native"),
    "JPEG 32": (encode(picture(32, 32, 20), "JPEG"), "upscaled"),
    "WebP 32": (encode(picture(32, 32, 20), "WEBP", quality=80), "upscaled"),
    "lossless WebP 32": (encode(picture(32, 32, 20), "WEBP", lossless=True), "native"),
    "turned": (
        encode(picture(32, 40, 8), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
        "native",
    ),
    "large": (encode(picture(49, 60)), "native"),
    "too many pixels to look at": (encode(picture(32, 800, 8)), "upscaled"),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A model repository of which only the manifest is there."""
    document = json.loads((ROOT / "model_repository/manifest.json").read_text("utf-8"))
    folder = tmp_path_factory.mktemp("repository")
    (folder / "manifest.json").write_text(json.dumps({**document, "route_rules": RULES}))
    return folder


@pytest.fixture(scope="module")
def backend(repository) -> TorchBackend:
    return TorchBackend(
        load_clip(ROOT / "checkpoints/clipsr-small"), None, name="small", routes=read_routes(repository)
    )


@pytest.mark.parametrize("copy", [SERVING, TRAINING], ids=lambda path: path.relative_to(ROOT).parts[0])
def test_all_run_the_same_code(copy):
    assert GATEWAY.read_bytes() == copy.read_bytes(), f"cp {GATEWAY.relative_to(ROOT)} {copy.relative_to(ROOT)}"


@pytest.mark.parametrize("name", FILES)
def test_all_choose_alike(name, repository, backend):
    content, expected = FILES[name]
    width, height = Image.open(io.BytesIO(content)).size
    assert _choose_route(content, (height, width), Core(repository)) == expected
    image = read_image(content)
    taken = read_manifest(repository).routes.choose(content, (image.height, image.width), lambda: np.asarray(image))
    assert taken == expected
    prepared = TorchBackend._prepare(backend, content, name, "auto")
    assert ("upscaled" if isinstance(prepared, Canvas) else "native") == expected


def test_pixels_are_read_only_where_noise_decides(repository):
    routes = read_routes(repository)
    for name in ("JPEG 16", "JPEG 32", "large", "too many pixels to look at"):
        content, expected = FILES[name]
        width, height = Image.open(io.BytesIO(content)).size
        assert routes.choose(content, (height, width), lambda: pytest.fail("read")) == expected


def test_damaged_pixels_are_left_to_the_model(repository):
    content = encode(picture(40, 32, 8))
    assert _choose_route(content[: len(content) // 2], (40, 32), Core(repository)) == "native"


@pytest.mark.parametrize("sigma", [0, 4, 8, 16])
def test_noise_is_estimated_whatever_the_picture_shows(sigma):
    edges = np.asarray(picture(64, 64)).astype(float)
    edges[::3] += 60
    edges[:, ::5] -= 50
    noisy = (edges + np.random.default_rng(1).normal(0, sigma, edges.shape)).clip(0, 255).astype(np.uint8)
    assert estimate_noise(noisy) == pytest.approx(sigma, rel=0.15, abs=0.6)
    assert estimate_noise(noisy[:1]) == 0


def test_noise_that_all_channels_share_is_not_seen():
    """A limit that docs/low-resolution.md names."""
    assert estimate_noise(np.asarray(picture(32, 32, 16, grey=True))) < 2


def test_formats_that_lose():
    image = picture(16, 16)
    assert [is_lossy(encode(image, name)) for name in ("PNG", "BMP", "GIF", "TIFF")] == [False] * 4
    assert [is_lossy(encode(image, name)) for name in ("JPEG", "WEBP", "AVIF")] == [True] * 3
    assert not is_lossy(encode(image, "WEBP", lossless=True))
    assert not is_lossy(b"")
