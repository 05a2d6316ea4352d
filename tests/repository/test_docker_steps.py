"""The image's steps, run without Docker: the Dockerfile holds nothing but scripts that work on their own."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (REPO_ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
COMMANDS = ("clipsr-client", "clipsr-gateway", "clipsr-serve")


def instructions(name: str) -> list[str]:
    """Arguments of every instruction of that name, continuation lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} +(.+)$", joined, re.MULTILINE)


def run_script(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the repository's scripts as the image's build does."""
    return subprocess.run(
        command,
        cwd=REPO_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_step_is_a_script_of_the_repository() -> None:
    steps = instructions("RUN")
    assert steps
    for step in steps:
        script = REPO_ROOT / step.split()[0]
        assert script.parent.name == "scripts", step
        assert script.is_file(), step


def test_everything_copied_exists_and_reaches_the_builder() -> None:
    allowed = (REPO_ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for copy in instructions("COPY"):
        for source in copy.split()[:-1]:
            assert (REPO_ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in allowed, source


def test_it_runs_without_rights_and_is_checked_for_health() -> None:
    assert instructions("USER") == ["1000:1000"]
    assert "clipsr-client" in instructions("HEALTHCHECK")[0]
    assert json.loads(instructions("ENTRYPOINT")[0])[:4] == ["clipsr-serve", "up", "--triton", "path"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_s_environment_installs_and_its_commands_run(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    installed = run_script("scripts/install.sh", "container", venv)
    assert installed.returncode == 0, installed.stderr
    for command in COMMANDS:
        shown = subprocess.run(
            [venv / "bin" / command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert shown.returncode == 0, shown.stderr
        assert "Usage" in shown.stdout or "usage" in shown.stdout
    (listed,) = venv.glob("lib/python3.*/site-packages")
    assert not (listed / "torch").exists()
    assert not list(listed.glob("__editable__*")), "an image must not point back into the build context"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nonsense", "venv"), "unknown role 'nonsense'"),
        (("serve",), "name the folder"),
        (("gpu", "nowhere"), "there is no NVIDIA GPU here" if shutil.which("nvidia-smi") is None else "make it first"),
    ],
)
def test_install_refuses_with_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    refused = run_script("scripts/install.sh", *arguments)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def fake_python(path: Path, sentence: str) -> Path:
    """A Python that fails its check with this sentence."""
    path.write_text(f'#!/bin/sh\necho "{sentence}"\nexit 1\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def test_install_passes_on_what_is_wrong_with_python(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python3", "is Python 2.7; clipsr needs another")
    refused = run_script("scripts/install.sh", "serve", tmp_path / "venv", PYTHON=str(python))
    assert refused.returncode == 1
    assert refused.stderr == f"install: {python} is Python 2.7; clipsr needs another\n"
    assert not (tmp_path / "venv").exists()


def test_install_without_any_python_says_so(tmp_path: Path) -> None:
    refused = run_script("scripts/install.sh", "serve", tmp_path / "venv", PYTHON="python-that-is-not-there")
    assert refused.returncode == 1
    assert "python-that-is-not-there is not there: install Python" in refused.stderr


def test_system_packages_are_complete_here_and_their_absence_is_told(tmp_path: Path) -> None:
    assert run_script("scripts/install-system.sh").returncode == 0
    # Nothing but what the script itself needs: no apt-get, no sudo.
    for tool in ("bash", "dirname", "env", "id"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    refused = run_script("scripts/install-system.sh", "make", PATH=str(tmp_path))
    assert refused.returncode == 1
    assert "missing: make" in refused.stderr


def write_repository(folder: Path, content: bytes) -> None:
    """A model repository with one artifact whose digest is that of b"graph"."""
    manifest = {"artifacts": {"upscale/1/model.onnx": {"sha256": hashlib.sha256(b"graph").hexdigest(), "bytes": 5}}}
    (folder / "upscale" / "1").mkdir(parents=True)
    (folder / "upscale" / "1" / "model.onnx").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_complete_artifacts_are_accepted(tmp_path: Path) -> None:
    write_repository(tmp_path, b"graph")
    assert run_script("scripts/check-artifacts.sh", tmp_path).returncode == 0


def test_changed_or_missing_artifacts_stop_the_build(tmp_path: Path) -> None:
    without_manifest = run_script("scripts/check-artifacts.sh", tmp_path)
    assert without_manifest.returncode == 1
    assert "make export" in without_manifest.stderr
    write_repository(tmp_path, b"other")
    changed = run_script("scripts/check-artifacts.sh", tmp_path)
    assert changed.returncode == 1
    assert "not what the manifest describes" in changed.stderr
    (tmp_path / "upscale" / "1" / "model.onnx").unlink()
    missing = run_script("scripts/check-artifacts.sh", tmp_path)
    assert missing.returncode == 1
    assert "is missing" in missing.stderr
