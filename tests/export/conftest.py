"""An untrained pair, exported once for the tests of this folder."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# Before open_clip: it imports torchvision, which needs the package's cure first.
import clipsr_training
from clipsr_export.cli import main
from clipsr_training.clip import save_clip
from clipsr_training.clip._checkpoint import ClipCheckpoint, build_clip
from clipsr_training.liif import ModulatedLIIF, save_liif
from clipsr_training.liif._encoders import EDSR
from tests.export.reuse import write_once
from tests.export.tiny import CONTEXT, EMBED_DIM, SIZE_PX
from tests.forks import Forks, forking

assert clipsr_training.__version__


@pytest.fixture(scope="session")
def write_graph(tmp_path_factory) -> Callable[..., None]:
    """`write_onnx`, but for graphs that are there already."""
    own = tmp_path_factory.getbasetemp()
    kept = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "graphs"
    kept.mkdir(exist_ok=True)
    return functools.partial(write_once, kept)


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_written_once(write_graph) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("_repository.export", "_upscaler"):
            patch.setattr(f"clipsr_export.{module}.write_onnx", write_graph)
        yield


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Runs scripts with the command of this room imported."""
    with forking(tmp_path_factory.mktemp("forks"), "clipsr_export.cli") as started:
        yield started


@pytest.fixture(scope="session")
def clip() -> ClipCheckpoint:
    torch.manual_seed(0)
    vision = {"image_size": SIZE_PX, "layers": 1, "width": 64, "patch_size": 8, "head_width": 32}
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    preprocess = {"mean": [0.48, 0.45, 0.4], "std": [0.26, 0.25, 0.27], "interpolation": "bicubic"}
    config = {
        "model_cfg": {"embed_dim": EMBED_DIM, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": preprocess,
    }
    checkpoint = build_clip(config)
    checkpoint.model.eval()
    return checkpoint


@pytest.fixture(scope="session")
def upscaler() -> ModulatedLIIF:
    torch.manual_seed(0)
    return ModulatedLIIF(EDSR(n_resblocks=1, n_feats=8), latent_dim=16).eval()


@pytest.fixture(scope="session")
def repository(tmp_path_factory, clip, upscaler, repo_root) -> Path:
    """A repository exported by the command line from checkpoint files, in a folder of its own."""
    folder = tmp_path_factory.mktemp("export")
    save_clip(clip, folder / "tiny-clip")
    save_liif(upscaler, folder / "liif.safetensors")
    output = folder / "repository"
    template = repo_root / "model_repository"
    arguments = ["--clip", folder / "tiny-clip", "--upscaler", folder / "liif.safetensors", "--output", output]
    samples = ["--samples", repo_root / "samples", "--template", template]
    assert main([str(a) for a in (*arguments, *samples)]) == 0
    return output


@pytest.fixture(scope="session")
def manifest(repository) -> dict:
    return json.loads((repository / "manifest.json").read_text())
