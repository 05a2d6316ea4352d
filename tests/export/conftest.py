"""An untrained pair, exported once for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsr_export.cli import main
from clipsr_training.clip import save_clip
from clipsr_training.clip._checkpoint import ClipCheckpoint
from clipsr_training.liif import ModulatedLIIF, save_liif
from tests.export.tiny import make_clip, make_upscaler
from tests.forks import Forks, forking


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_written_once(graphs_written_once) -> None:
    """See `graphs_written_once`."""


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Forks]:
    """Runs scripts with the command of this room imported."""
    with forking(tmp_path_factory.mktemp("forks"), "clipsr_export.cli") as started:
        yield started


@pytest.fixture(scope="session")
def clip() -> ClipCheckpoint:
    return make_clip()


@pytest.fixture(scope="session")
def upscaler() -> ModulatedLIIF:
    return make_upscaler()


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
