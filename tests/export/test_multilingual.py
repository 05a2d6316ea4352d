"""A multilingual checkpoint on its whole way: made, exported, served, and asked in Chinese on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from clipsr_export.cli import main as export
from clipsr_training.clip import ClipCheckpoint, load_open_clip, multi_positive_contrastive_loss, save_clip
from clipsr_training.liif import ModulatedLIIF, save_liif
from clipsr_training.liif._encoders import EDSR
from tests.export.families import MODELS, register, write_tokenizer
from tests.integration.conftest import Service, running

NAME = "tiny-multilingual"
# Its tokens are single letters: so many hold the longest caption, and the text tower has positions for 38.
CONTEXT_LENGTH = 32
# Of each color its names in two languages, and its pixels.
COLORS = {
    ("red", "红色"): (215, 40, 40),
    ("green", "绿色"): (40, 170, 60),
    ("blue", "蓝色"): (40, 70, 210),
    ("yellow", "黄色"): (235, 215, 50),
    ("black", "黑色"): (15, 15, 15),
    ("white", "白色"): (245, 245, 245),
}
TEMPLATES = ("a photo of a {}.", "一张{}的照片")  # the first one is the service's default
SIDE_PX = 48  # large enough to be resized; the upscaler here knows nothing
MAX_STEPS = 600
ENOUGH = 0.3  # by so much is every caption's cosine with its own image larger than with any other

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def square(rgb: tuple[int, int, int], *, side_px: int) -> np.ndarray:
    """A square of nearly one color, uint8 [side_px, side_px, 3]."""
    noise = np.random.default_rng(sum(rgb)).integers(-8, 9, (side_px, side_px, 3))
    return np.clip(np.array(rgb) + noise, 0, 255).astype(np.uint8)


def train(checkpoint: ClipCheckpoint) -> None:
    """Teaches a model its colors by their names in both languages; without dropout, so that it is the same each time.

    Raises:
        AssertionError: it did not learn them.
    """
    side, prepared = checkpoint.image_size_px, checkpoint.config["preprocess_cfg"]
    pixels = np.stack([square(rgb, side_px=side) for rgb in COLORS.values()]).transpose(0, 3, 1, 2) / 255
    mean, std = (np.array(prepared[name])[:, None, None] for name in ("mean", "std"))
    images = torch.from_numpy((pixels - mean) / std).float()
    captions = [template.format(name) for names in COLORS for name in names for template in TEMPLATES]
    tokens = checkpoint.tokenizer(captions)
    assert len({tuple(ids) for ids in tokens.tolist()}) == len(captions), "captions are cut where they differ"
    per_image = len(captions) // len(COLORS)
    is_positive = torch.eye(len(COLORS), dtype=torch.bool).repeat_interleave(per_image, dim=1)
    model = checkpoint.model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(MAX_STEPS):
        features = [
            functional.normalize(each, dim=-1)
            for each in (checkpoint.encode_image(images), checkpoint.encode_text(tokens))
        ]
        cosines = (features[0] @ features[1].T).detach()  # [images, captions]
        own = cosines.masked_fill(~is_positive, -1).amax(dim=0)
        if (own - cosines.masked_fill(is_positive, -1).amax(dim=0)).min() > ENOUGH:
            return
        loss = multi_positive_contrastive_loss(*features, model.logit_scale.exp(), is_positive)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"the colors were not learned in {MAX_STEPS} steps")


@pytest.fixture(scope="module")
def repository(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows colors in English and Chinese, exported as a user exports one."""
    folder = tmp_path_factory.mktemp("multilingual")
    (folder / "configs").mkdir()
    config = MODELS["tiny-xlm-roberta"]
    config = {**config, "text_cfg": {**config["text_cfg"], "context_length": CONTEXT_LENGTH}}
    register(folder / "configs", {NAME: config})
    captions = [template.format(name) for names in COLORS for name in names for template in TEMPLATES]
    tokenizer = write_tokenizer(folder / "tokenizer", "tiny-xlm-roberta", corpus=captions)
    torch.manual_seed(0)
    checkpoint = load_open_clip(NAME, "random", tokenizer=tokenizer)
    train(checkpoint)
    save_clip(checkpoint, folder / "clip")
    save_liif(ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval(), folder / "liif.safetensors")
    (folder / "samples").mkdir()
    Image.fromarray(square((215, 40, 40), side_px=SIDE_PX)).save(folder / "samples" / "red.png")
    options = ["--clip", folder / "clip", "--upscaler", folder / "liif.safetensors", "--samples", folder / "samples"]
    options += ["--no-text-banks", "--template", repo_root / "model_repository", "--output", folder / "repository"]
    assert export([str(option) for option in options]) == 0
    return folder / "repository"


@pytest.fixture(scope="module")
def colors(repository: Path, serve_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service of that model, with a library "colors" that has one image of each."""
    folder = tmp_path_factory.mktemp("colors")
    (folder / "images").mkdir()
    for (name, _), rgb in COLORS.items():
        Image.fromarray(square(rgb, side_px=SIDE_PX)).save(folder / "images" / f"{name}.png")
    with running(serve_bin, repository, folder / "state") as service:
        added = service.cli("library", "add", folder / "images", "--library", "colors", "--create")
        assert added.returncode == 0, added.stderr
        assert f"{len(COLORS)} images: {len(COLORS)} added" in added.stdout
        yield service


def search(service: Service, text: str, *options: str) -> tuple[list[str], str]:
    """What the command finds, best first, by the names of the files; and what it says besides."""
    found = service.cli("library", "search", text, "--library", "colors", "--json", *options)
    assert found.returncode == 0, found.stderr
    sources = [json.loads(line)["source"] for line in found.stdout.splitlines()]
    return [Path(source).stem for source in sources], found.stderr


def test_chinese_words_find_what_they_name(colors):
    for english, chinese in COLORS:
        for word, options in ((english, ()), (chinese, ()), (chinese, ("--templates", TEMPLATES[1]))):
            found, said = search(colors, word, *options)
            assert found[0] == english, word
            assert len(found) == len(COLORS)
            assert said == ""


def test_a_script_that_the_model_never_saw_is_warned_of(colors):
    found, said = search(colors, "κόκκινο")
    assert len(found) == len(COLORS)
    assert 'vocabulary has not a word of "κόκκινο"' in said
