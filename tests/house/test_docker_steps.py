"""The image's steps, run without Docker: the Dockerfile holds nothing but scripts that work on their own."""

from __future__ import annotations

import hashlib
import json
import os
import re
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
    ],
)
def test_install_refuses_with_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    refused = run_script("scripts/install.sh", *arguments)
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("exit 127", "is too old"),
        ('case "$2" in *ensurepip*) exit 1 ;; esac', "apt install python3-venv"),
    ],
)
def test_install_says_what_python_lacks(tmp_path: Path, body: str, sentence: str) -> None:
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.x; exit; fi\n{body}\n', "utf-8")
    python.chmod(0o755)
    refused = run_script("scripts/install.sh", "serve", tmp_path / "venv", PYTHON=str(python))
    assert refused.returncode == 1
    assert sentence in refused.stderr


def test_install_without_any_python_says_so(tmp_path: Path) -> None:
    refused = run_script("scripts/install.sh", "serve", tmp_path / "venv", PYTHON="python-that-is-not-there")
    assert refused.returncode == 1
    assert "there is no 'python-that-is-not-there'" in refused.stderr


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
