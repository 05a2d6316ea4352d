"""CLIP training on thumbnails of images, and by both routes of the service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipsr_training._cli.train import main as train_main
from clipsr_training.clip._recipes import ClipRecipe
from clipsr_training.clip._rendering import Rendering
from clipsr_training.clip._thumbnails import ThumbnailSource
from clipsr_training.data import read_pairs
from clipsr_training.degradation import draw_side, generator

LIIF_WEIGHTS = Path("checkpoints/liif-fast/liif.safetensors")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """12 smooth images of 70x100 px in two classes."""
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / "photos" / ("cat", "ship")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        smooth = Image.fromarray(rng.integers(0, 256, (7, 10, 3), dtype=np.uint8))
        smooth.resize((100, 70), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return tmp_path / "photos"


def test_each_image_is_followed_by_its_thumbnails(photos):
    images = read_pairs(photos)
    source = ThumbnailSource.of(images, 2, seed=1)
    assert len(source) == 36
    assert list(source.texts) == [own for own in images.texts for _ in range(3)]
    assert source.phrases == images.phrases
    for row in range(12):
        assert source.image(3 * row) == images.image(row)
        sizes = [source.image(3 * row + k).size for k in (1, 2)]
        assert all(width == height and 8 <= width <= 70 for width, height in sizes)
    assert source.rows(np.array([0, 5])).tolist() == [0, 1, 2, 15, 16, 17]
    assert source.where(17) == images.where(5)


def test_thumbnails_are_a_function_of_seed_image_and_number(photos):
    images = read_pairs(photos)

    def thumbnails(seed: int) -> list[bytes]:
        source = ThumbnailSource.of(images, 2, seed)
        return [source.image(i).tobytes() for i in range(36) if i % 3]

    first = thumbnails(1)
    assert first == thumbnails(1)
    assert len(set(first)) == 24
    assert not set(first) & set(thumbnails(2))


def test_the_digest_tells_what_is_drawn_from_what(photos):
    images = read_pairs(photos)
    digests = [ThumbnailSource.of(images, n, seed).image_digest for n, seed in ((1, 0), (2, 0), (1, 1))]
    digests += [images.image_digest, ThumbnailSource.of(replace(images, webp_quality=80), 1, 0).image_digest]
    assert len(set(digests)) == 5


def test_thumbnails_of_images_without_room_to_shrink_keep_their_size(tmp_path):
    (tmp_path / "dot").mkdir()
    Image.new("RGB", (5, 3), "red").save(tmp_path / "dot" / "a.png")
    assert ThumbnailSource.of(read_pairs(tmp_path), 1, 0).image(1).size == (3, 3)


def test_half_of_the_sides_are_at_most_32_px():
    sides = np.array([draw_side(generator(0, i, "side"), 128) for i in range(2000)])
    assert (sides.min(), sides.max()) == (8, 128)
    assert (sides <= 32).mean() == pytest.approx(0.5, abs=0.04)
    assert (sides <= 64).mean() == pytest.approx(0.875, abs=0.03)


def test_a_run_trains_on_thumbnails_by_both_routes_and_validates_each(tmp_path, photos, monkeypatch):
    from clipsr_training.clip._train import ClipTrainingModule

    seen = {}

    def keep(self: ClipTrainingModule) -> None:
        seen.update({source.name: source for source in self.sources})

    monkeypatch.setattr(ClipTrainingModule, "on_train_epoch_start", keep)
    command = ["clip", "--data", str(photos), "--epochs", "1", "--batch-size", "8", "--validation-per-class", "1"]
    command += ["--upscaler", str(LIIF_WEIGHTS), "--thumbnails", "2", "--both-routes"]
    assert train_main([*command, "--output", str(tmp_path / "run")]) == 0
    assert set(seen) == {"photos-upscaled", "photos-native"}
    for source in seen.values():
        assert (len(source.train), len(source.validation)) == (30, 2)
        assert not set(source.train) & set(source.validation)
        assert all(row % 3 == 0 for row in source.validation)
    rows = np.arange(36)
    upscaled, native = (seen[f"photos-{route}"].pixels[rows].astype(int) for route in ("upscaled", "native"))
    assert np.abs(upscaled - native).mean() > 1
    weights = load_file(tmp_path / "run" / "clip" / "open_clip_model.safetensors")
    assert all(torch.isfinite(value).all() for value in weights.values())
    # The settings of a run say it: it is not resumed with others.
    assert train_main([*command[:-1], "--output", str(tmp_path / "run"), "--resume"]) == 1


def test_both_routes_need_an_upscaler():
    with pytest.raises(ValueError, match="both routes need an upscaler"):
        ClipRecipe(both_routes=True)
    assert ClipRecipe(both_routes=True, rendering=Rendering(upscaler="bicubic")).both_routes
    with pytest.raises(ValueError, match="thumbnails must be"):
        ClipRecipe(thumbnails=-1)
